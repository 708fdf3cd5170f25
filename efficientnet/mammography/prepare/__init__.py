"""Decode every image once: `python -m efficientnet.mammography.prepare`.

__main__        the command: start here
folder          the layout of a prepared folder, and the settings it was made with
pictures        original images to prepared pictures, in several processes
contact_sheet   --preview
benchmark       --benchmark
"""
