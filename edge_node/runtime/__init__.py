"""The runtime: loads and runs segments; all that knows ONNX Runtime."""
