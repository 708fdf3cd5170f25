"""Read and write other libraries' checkpoints: `python -m efficientnet.weights info|convert`.

load           start here: read a file, recognise it, load it into a model, write one
published      weights by a published name or by URL
files          .safetensors and PyTorch files, without executing code
recognise      the library, and the network among a file's tensors
names          each library's names of the tensors
conventions    each library's padding, batch-norm eps and normalisation
variants       the known architecture that fits the tensors
"""

from __future__ import annotations

from efficientnet.weights.files import WeightsError

__all__ = ["WeightsError"]
