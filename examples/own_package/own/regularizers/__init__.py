"""Of one's own: regularizers."""
