"""The model's side of the socket: the only room that imports mlx, numpy, transformers and gguf."""
