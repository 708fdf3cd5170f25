"""Shared by all commands. No torch at import.

errors          `UserError`, the base of every error that ends in one line
command_line    a command's `main`: exit codes, one-line errors, argument types
options         a dataclass of options <-> command line <-> JSON
files           files that are written whole or not at all; tensors read without executing code
extras          optional packages, imported at first use
cpu             cores, bf16 units, and the allocator
isolated        a function over many inputs in processes that may crash
"""
