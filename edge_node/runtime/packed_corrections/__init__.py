"""Corrections of blocks among the weights that ONNX Runtime has packed, where they cost nothing."""
