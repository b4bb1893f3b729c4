"""CREST: the map of where a target is in a window, by a correlation filter of its size (MetaCREST)."""
