"""Backbones, a file each, found by the name that `model.name` gives; and what they have in common."""

from raymeta.models.backbone import Backbone
from raymeta.models.passes import Pass, Weights

__all__ = ["Backbone", "Pass", "Weights"]
