"""Families of models: which architectures are converted, and what onnxruntime-genai's builder is told of each."""
