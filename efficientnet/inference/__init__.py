"""Prediction: logits of images, a fast path that computes the same function in fewer steps, and class-activation maps.

fast_path     start here: `optimize_for_inference` and the model that it returns
as_built      which layers of a network the fast path may replace
folded        the layers of the fast path, with batch norm folded into the convolutions
onednn        its convolutions on a CPU, fused with activations and sums
engines       torch, compile, onnxruntime, openvino: what runs the convolutions
exported      export for other programs
precision     fp32, bf16, fp16
prediction    logits of a batch, from any model on any device
activation    which pixels raise an output: class-activation maps for a heat map
"""

from __future__ import annotations

from efficientnet.inference.fast_path import optimize_for_inference

__all__ = ["optimize_for_inference"]
