"""A study: one search, from its plan to its report. All of it lives in one folder, and any command goes on from it."""
