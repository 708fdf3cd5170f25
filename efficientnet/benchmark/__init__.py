"""Speed comparison with other libraries: `python -m efficientnet.benchmark`.

compare       ours and the installed peers, in turns
worker        one measurement in a fresh process
scaling       cases in which time does not follow multiply-adds
reading       how fast train.py reads a data folder
checkpoint    the effect of a lower precision on a trained model's metrics
"""
