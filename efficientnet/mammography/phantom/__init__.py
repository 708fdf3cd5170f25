"""The embedded data set of synthetic mammograms: `python -m efficientnet.mammography.phantom`.

__main__   the command
dataset    the whole set as a folder: start here
patient    labels, anatomy and lesions of each patient
image      the picture of a breast
lesion     masses and calcifications
dicom      a picture as a DICOM file
"""
