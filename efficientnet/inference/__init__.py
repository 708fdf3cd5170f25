"""Prediction: the same function in fewer steps.

fast_path    start here: `optimize_for_inference` and the model it returns
precision    fp32, bf16, fp16
"""

from efficientnet.inference.fast_path import optimize_for_inference

__all__ = ["optimize_for_inference"]
