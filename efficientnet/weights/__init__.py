"""Read and write other libraries' checkpoints: `python -m efficientnet.weights info|convert`.

load           start here: read a file, recognise it, load it into a model, write one
names          each library's names of the tensors
conventions    each library's padding, batch-norm eps and normalisation
variants       the known architecture that fits the tensors
files          .safetensors and PyTorch files, without executing code
"""
