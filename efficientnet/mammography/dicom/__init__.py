"""DICOM files to brightness.

reading       start here: a file to an image
grayscale     stored values to brightness (PS3.3 C.11)
codestream    what a compressed frame says of its own size
headers       the headers of many files, for `prepare --check`
"""
