"""Studies kept in order: listed, named, moved, packed, thinned out and removed; never half a study."""
