"""What each command computes, as plain functions that print nothing: one file each, called `clipib.<name>`."""
