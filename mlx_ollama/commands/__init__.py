"""The commands of `mlx-ollama`, one module each: `add` declares its flags, and what it sets as `run` does the work."""
