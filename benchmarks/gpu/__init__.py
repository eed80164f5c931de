"""The engine on a GPU beside transformers and plain torch: `python -m benchmarks.gpu`."""
