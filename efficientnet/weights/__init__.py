"""Read and write other libraries' checkpoints: `python -m efficientnet.weights info|convert`.

load           start here: read and recognise a file, load it into a model, write a file
published      weights by a published name or by URL
files          .safetensors and PyTorch files, without executing code
recognise      the library that a file comes from, and the network among its tensors
names          each library's names for the tensors
conventions    each library's padding, batch-norm eps and normalisation
variants       the known architecture that fits the tensors
"""

from __future__ import annotations

from efficientnet.weights.files import WeightsError

__all__ = ["WeightsError"]
