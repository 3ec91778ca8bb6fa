"""The models that this server knows: their names, where they lie, what they are."""
