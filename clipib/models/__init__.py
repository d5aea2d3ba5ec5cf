"""Checkpoints: `load_model(spec)` gives one small object whatever the source."""
