"""Copies of a study's trials for other trackers than MLflow (`--also`): never in the study's way."""
