"""Decode every image once: `python -m efficientnet.mammography.prepare`.

__main__        the command: start here
check           --check: the tables, their files and headers, before any image is decoded
folder          the layout of a prepared folder, and the settings it was made with
pictures        original images to prepared pictures, in several processes
contact_sheet   --preview
benchmark       --benchmark
"""
