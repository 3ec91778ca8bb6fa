"""`make bench`: tokens per second through this server, beside `mlx_lm.server` and the bare `BatchGenerator` loop."""
