"""The process that keeps the gateway alive. It stays small: the standard library and `settings`, nothing else."""
