"""The answers that scale.py prints. No torch.

paper_tables    Tables 3 and 7 of the paper beside what their rules give
rows            the values of each answer, as --json has them
text            the same for a terminal
plot            the same as a picture
"""
