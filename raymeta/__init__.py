"""raymeta: hyperparameter search for meta-learning and its regularizers."""

from importlib.metadata import version

from raymeta._after_import import import_after

__version__ = version("raymeta")

import_after("ray.tune", "raymeta.trainable")  # registers `raymeta/<method>` with Ray Tune
