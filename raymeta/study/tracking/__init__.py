"""MLflow: a copy of every study, kept by a process of its own."""
