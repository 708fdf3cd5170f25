"""What evaluate.py shows to people: `--report`, a page about a set of breasts; `--image`, one file.

content      start here: the page as plain data
assembly     scored breasts and their networks to that data
document     the data as files: report.html, which needs no other file, and PNG files
plots        ROC, precision and recall, thresholds, calibration, training
breasts      the breasts that a reader should look at, with their pictures
heatmap      class activation drawn over a picture
single       one image file: its probabilities and its heatmap
"""
