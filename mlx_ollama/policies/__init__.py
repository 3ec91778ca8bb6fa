"""Policies: plain ASGI middleware, one class a file, put in order by `app.create_app` and nowhere else."""
