"""The embedded data set: `python -m efficientnet.mammography.phantom`.

dataset    start here: the folder of a set, written once
patient    labels, anatomy and lesions of each patient
image      a picture of a breast
lesion     masses and calcifications
dicom      the picture as a DICOM file
"""
