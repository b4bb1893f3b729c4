"""Regularizers, one a file: what follows a `+` on the command line is a module here."""
