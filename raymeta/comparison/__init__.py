"""Is A better than B? Scores of the same tasks, compared pair by pair and over many data sets."""
