"""Of one's own: methods."""
