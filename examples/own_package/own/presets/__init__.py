"""Of one's own: presets."""
