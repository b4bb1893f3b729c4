"""A search from its start to its end: Ray Tune, proposals and rungs, the driver."""
