"""Training and evaluation of one config. It knows nothing of Ray."""
