"""Code shared by all commands. Importing it does not import torch.

errors          `UserError`, the base of errors that are reported without a traceback
command_line    a command's `main`: exit codes, one-line errors, argument types
text            words for messages
options         a dataclass of options <-> command line <-> JSON
files           atomic file writes; loading tensors without executing code
extras          optional packages, imported at first use
cpu             usable cores, bf16 units, and the memory allocator
isolated        call a function on many inputs in processes that may crash
"""
