"""Runs segments: all that knows ONNX Runtime."""
