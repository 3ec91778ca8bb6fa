"""For whoever extends the server: `check_policy` proves that a policy keeps its contract."""

from mlx_ollama.testing.trial import PolicyBroken, check_policy

__all__ = ["PolicyBroken", "check_policy"]
