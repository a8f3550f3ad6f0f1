"""timm, which takes seconds to import, with this repository's own models registered."""

import timm
from timm.models import register_model

from bench.model.classifier import image_classifier

__all__ = ["timm"]

register_model(image_classifier)
