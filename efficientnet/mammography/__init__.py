"""Screening mammography: DICOM files and a table -> a trained, scored model.

task             start here: the `Task` that train.py and evaluate.py see
settings         its options and its recipes
run_data         the images of a run: its table, split and files
table            train.csv: rows and breasts
table_columns    its columns: which are required, and their names in the file
table_text       the text of a table: records and cells
targets          what is learned from a table: 0/1 labels, categories, numbers
layouts          the tables of VinDr-Mammo and CBIS-DDSM as RSNA's
extra            further data folders to train on
identifiers      identifiers of patients and images, and the damage that spreadsheets do to them
split            folds by patient, which a run keeps even if its table changes
image_files      the image file of each row
dicom            a folder: DICOM files to brightness
preprocessing    brightness to a picture: crop, side, size
raster           PNG, JPEG and TIFF files to brightness, and a survey of a folder's files
picture          one image file to a picture; prepared pictures
resample         antialiased resizing
dataset          rows and files to tensors
crops            random crops of a picture, and its centre
augment          random variations of a picture
loss             the loss over all kinds of targets, and prior correction
fold_summary     all folds of `--fold all`: out-of-fold predictions, their threshold
scoring          images to breasts, predictions.csv, submission.csv
calibration      slope and bias that correct probabilities
figures          metrics with intervals, calibration and subgroups, as a table
comparison       two models on the same breasts
report           MODEL_CARD.md
trained          metadata of checkpoints: what they were trained on, which patients they may score
evaluation       checkpoints on a table, for evaluate.py
exporting        what `efficientnet.export` writes
page             a folder: the page of `--report`, and heatmaps
prepare          a folder: decodes every image once
ablation         a folder: what each part of the recipe contributes, on phantoms
phantom          a folder: the embedded data set
"""
