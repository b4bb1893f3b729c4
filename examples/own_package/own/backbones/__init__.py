"""Of one's own: backbones."""
