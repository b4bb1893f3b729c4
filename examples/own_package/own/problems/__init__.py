"""Of one's own: problems."""
