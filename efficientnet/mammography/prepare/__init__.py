"""Decode every image once: `python -m efficientnet.mammography.prepare`.

__main__         the command
folder           what a prepared folder says of itself
contact_sheet    --preview
benchmark        --benchmark
"""
