"""Learners, one a file: a name on the command line is a module here."""
