"""Backbones, a file each, found by the name that `model.name` gives; and what they have in common."""

from raymeta.models.backbone import Backbone, Weights

__all__ = ["Backbone", "Weights"]
