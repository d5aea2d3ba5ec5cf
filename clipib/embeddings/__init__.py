"""Features of images and texts: encoded once, kept by content, searched with FAISS."""
