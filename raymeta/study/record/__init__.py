"""A study on disk or on a store: the one truth, and who may write it."""
