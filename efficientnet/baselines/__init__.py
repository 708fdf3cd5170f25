"""MobileNetV1, MobileNetV2 and ResNet-50, which the paper scales as well as B0 (section 5.1).

stages    their stage tables, and `get_architecture` to find one by name; no torch
layers    their blocks
files     baselines in JSON files
"""
