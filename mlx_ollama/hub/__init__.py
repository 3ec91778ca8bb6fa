"""Downloads from the Hugging Face hub, each in a short-lived process: `python -m mlx_ollama.hub ORG/REPO TAG`."""
