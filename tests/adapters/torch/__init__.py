"""PyTorch: real DataLoaders, real processes, a real process group."""
