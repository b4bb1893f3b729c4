"""Data sets of images, one a file (two where they share an archive)."""
