"""Derived trials: what a training starts from where it does not start from random weights."""

from bench.derive.start import TRANSFORMS, register_transform, starting_model

# Importing them registers the built-in transforms.
from bench.derive import weights  # isort: skip  # noqa: F401

__all__ = ["TRANSFORMS", "register_transform", "starting_model"]
