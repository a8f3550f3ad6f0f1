"""timm with this repository's own models registered; importing it takes seconds."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import load_state_dict, register_model
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

from bench.config import ModelConfig
from bench.model.backbone import seeded
from bench.model.classifier import image_classifier
from bench.model.origin import require_file
from routers import RequestError


def mlp_mixer(pretrained: bool = False, **options: Any) -> MlpMixer:
    """Build an MLP-Mixer of any size (2105.01601); timm's names fix depth, width and patch size.

    Args:
        options: those of timm's `MlpMixer`, and those that timm passes to every model.
    """
    if pretrained:
        raise TypeError("an mlp_mixer of arbitrary size has no pretrained weights")
    of_timm = ("pretrained", "cache")
    own = {name: value for name, value in options.items() if not name.startswith(of_timm)}
    return MlpMixer(**own)


register_model(image_classifier)
register_model(mlp_mixer)


def require_model(name: str) -> Any:
    """Return timm's configuration of a model's pretrained weights; None if it has none.

    Raises `RequestError`, with similar names, if no model is registered under this name.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise RequestError(
            f"timm has no model {name!r}; available: {', '.join(close) or 'none near'}"
        )
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag of pretrained weights that does not exist
        raise RequestError(f"timm's {name!r}: {error}") from None


def dense_model(model: ModelConfig, *, in_chans: int, num_classes: int, seed: int) -> nn.Module:
    """Build a timm model by name, with random weights drawn from `seed` or with those of a file.

    Raises `RequestError` if the model or an option does not exist, or the weights do not fit.
    """
    require_model(model.name)
    wanted = {"in_chans": in_chans, "num_classes": num_classes, **model.options}
    with seeded(seed):
        if model.weights:
            return _loaded(model.name, wanted, model.weights)
        try:
            return timm.create_model(model.name, **wanted)
        except (TypeError, AssertionError, ValueError) as error:
            raise RequestError(
                f"timm's {model.name!r} refuses model.options = {dict(model.options)}: {error}"
            ) from error


def _loaded(name: str, wanted: dict[str, Any], file: str) -> nn.Module:
    """Build the model with the weights of a file, adapted to the model's channels and classes."""
    path = require_file(file)
    try:
        tensors: dict[str, Tensor] = load_state_dict(str(path), device="cpu")
    except Exception as error:  # torch's reader raises whatever its parser raises
        raise RequestError(f"model.weights = {file!r} is not a checkpoint: {error!r}") from error
    overlay: dict[str, Any] = {"state_dict": tensors}
    usual = timm.get_pretrained_cfg(name)
    last = tensors.get(f"{usual.classifier}.weight") if usual else None
    if last is not None:
        overlay["num_classes"] = len(last)  # the file's, so that a fitting last layer is kept
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **wanted)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise RequestError(f"model.weights = {file!r} does not fit {name!r}: {error}") from error
    _require_all(model, tensors, file)
    return model


def _require_all(model: nn.Module, tensors: dict[str, Tensor], file: str) -> None:
    """Raise an error if weights lack parameters of the model; timm silently ignores some.

    The last layer may be missing, since its classes often differ.
    """
    last = getattr(model, "get_classifier", nn.Identity)()
    spared = {id(parameter) for parameter in last.parameters()}
    wanted = [name for name, parameter in model.named_parameters() if id(parameter) not in spared]
    lacking = [name for name in wanted if name not in tensors]
    if lacking:
        raise RequestError(
            f"model.weights = {file!r} lacks {len(lacking)} of the {len(wanted)} parameters of "
            f"{type(model).__name__}, the first is {lacking[0]!r}: it belongs to another model"
        )
