"""Dialects: bytes of a request to a call, events of an answer to bytes. Siblings never import each other."""
