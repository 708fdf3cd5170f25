"""DICOM files to brightness.

reading      a file to an image: start here
grayscale    stored values to brightness (PS3.3 C.11)
codestream   the size that a compressed frame claims
headers      the headers of many files, for `prepare --check`
"""
