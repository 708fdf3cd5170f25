"""Speed beside other libraries: `python -m efficientnet.benchmark`.

compare       ours beside the installed peers, in turns
worker        one measurement in a process of its own
scaling       where time does not follow multiply-adds
checkpoint    what a lower precision does to a trained model's metrics
"""
