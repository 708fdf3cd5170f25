"""The answers of scale.py. No torch.

search          the grid of STEP 1, and the phi for a budget
paper_tables    Tables 3 and 7 of the paper beside counts by the paper's own rules
rows            each answer as values, for --json
text            each answer as text
plot            the family as a picture
"""
