"""`python -m mlx_ollama`."""

import sys

from mlx_ollama.cli import main

if __name__ == "__main__":
    sys.exit(main())
