"""Screening mammography: DICOM files and a table -> a trained, scored model.

task             start here: the `Task` that train.py and evaluate.py see
settings         its options and its default recipe
table            train.csv: rows and breasts
table_columns    its columns: which are required, and their names in the file
table_text       the text of a table: records and cells
identifiers      identifiers of patients and images, and the damage that spreadsheets do to them
split            folds by patient, which a run keeps even if its table changes
image_files      the image file of each row
dicom            a folder: DICOM files to brightness
preprocessing    brightness to a picture: crop, side, size
raster           PNG, JPEG and TIFF files to brightness, and a survey of a folder's files
picture          one image file to a picture; prepared pictures
resample         antialiased resizing
dataset          rows and files to tensors
augment          random variations of a picture
loss             masked binary cross-entropy and prior correction
scoring          images to breasts, predictions.csv, submission.csv
report           MODEL_CARD.md
trained          metadata of checkpoints: what they were trained on, which patients they may score
evaluation       checkpoints on a table, for evaluate.py
prepare          a folder: decodes every image once
phantom          a folder: the embedded data set
"""
