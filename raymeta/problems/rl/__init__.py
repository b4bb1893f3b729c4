"""Policies: a task is an environment, its examples are trajectories of the learner's own policy, its score a return."""
