"""raymeta: hyperparameter search for meta-learning and its regularizers."""

from importlib.metadata import version

__version__ = version("raymeta")
