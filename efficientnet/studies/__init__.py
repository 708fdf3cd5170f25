"""The paper's experiments at desk scale, each a command of `__main__`. Modules in reading order:

networks        small baselines, scaled in several ways to the same multiply-adds
design          what a study compares: networks, data and recipe
speed           how fast train.py would train them here
budget          what of a study fits into some hours
study           a study in its folder: trained, resumed
results         its table, paired tests and plot
space           the search space for a baseline
evolution       regularised evolution in it, and random search
search          a search in its folder
search_results  its table and plot
"""
