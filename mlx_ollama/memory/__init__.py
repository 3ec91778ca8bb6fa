"""The memory of this machine: how full it is, what a model will need of it, and what is done when it runs short."""
