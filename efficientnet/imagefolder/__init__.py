"""Image folders: a folder per class, such as ImageNet, CIFAR or your photographs -> a trained, scored classifier.

task             start here: the `Task` that train.py and evaluate.py see
settings         its options and its recipes
listing          the images below a folder: names, classes, folds
run_data         the images of a run: training and validation
pictures         an image file to the crop that the network reads
augment          AutoAugment and RandAugment
dataset          images to tensors
scoring          top-1, top-5, confusions, predictions.csv
report           MODEL_CARD.md, the summary of all folds, the comparison of two models
trained          metadata of checkpoints: classes, preprocessing, what they were trained on
evaluation       checkpoints on a folder, for evaluate.py
imagenet         the classes of ImageNet
"""
