"""Screening mammography: DICOM files and a table -> a trained, scored model.

task             start here: the `Task` that train.py and evaluate.py see
settings         its options, and the recipe that mammograms want
table            train.csv: rows and breasts
table_columns    its columns: what has to be there, under which names
table_text       the text of a table: records and cells
identifiers      patients and images, and what spreadsheets make of them
split            folds by patient, and those of a run, kept whatever becomes of its table
image_files      the image file of each row
dicom            a folder: DICOM files to brightness
preprocessing    brightness to a picture: crop, side, size
raster           PNG, JPEG and TIFF files to brightness, and what a sample of a folder tells
picture          one image file to a picture; prepared pictures
resample         antialiased resizing
dataset          rows and files to tensors
augment          random variations of a picture
loss             masked binary cross-entropy and the correction of the prior
scoring          images to breasts, predictions.csv, submission.csv
report           MODEL_CARD.md
trained          checkpoints without their networks: what they were trained on, whom they may score
evaluation       checkpoints on a table, for evaluate.py
prepare          a folder: decoding every image once
phantom          a folder: the embedded data set
"""
