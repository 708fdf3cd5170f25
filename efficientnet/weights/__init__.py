"""Other libraries' checkpoints in and out: `python -m efficientnet.weights info|convert`.

load           start here: read a file, recognise it, load it into a model, write one
names          what each library calls the tensors
conventions    each library's padding, batch-norm eps and normalisation
variants       which architecture the tensors are of
files          .safetensors and PyTorch files, without executing code
"""
