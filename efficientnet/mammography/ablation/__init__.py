"""What each part of the recipe contributes, measured on the embedded phantoms. `__main__` is the command."""
