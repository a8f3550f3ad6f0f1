"""timm, which takes seconds to import, with this repository's own models registered."""

import timm
from timm.models import register_model

from bench.model.classifier import image_classifier
from routers import RequestError

__all__ = ["require_model", "timm"]

register_model(image_classifier)


def require_model(name: str) -> None:
    """Refuse a name that no model is registered under.

    Raises:
        RequestError: with names that are near.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise RequestError(
            f"timm has no model {name!r}; there is {', '.join(close) or 'none near'}"
        )
