"""What an operator sees: health as JSON, and figures for Prometheus."""
