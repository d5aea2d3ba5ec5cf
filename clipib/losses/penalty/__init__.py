"""Penalties: what paired embeddings keep that they should not. One file each."""
