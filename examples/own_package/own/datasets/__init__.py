"""Of one's own: datasets."""
