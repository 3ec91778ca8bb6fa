"""`make bench`: rates, waiting times and the gateway's own figures, beside `mlx_lm.server` and the bare loop."""
