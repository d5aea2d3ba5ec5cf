"""The training loop, its batches, its state on disk. Evaluation comes in as a callback."""
