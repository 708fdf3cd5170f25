"""The answers of scale.py. No torch.

search          the grid of STEP 1, and the phi for a budget
paper_tables    Tables 3 and 7 of the paper beside counts by the paper's own rules
rows            the values of each answer, for --json
text            the same as text
plot            the same as a picture
"""
