"""Typed hyper-parameters: declared once on a class, then validated, shown, and tuned.

    class TemperatureTop1(Router):
        temperature: float = hyper(0.5, "Temperature.", gt=0, tune=Range(0.1, 2.0, log=True))

A plain default (`temperature: float = 0.5`) declares one too. A subclass removes an inherited
one by annotating it as `ClassVar`; see `Configurable`.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, to_json

from routers.errors import RequestError, nearest


@dataclass(frozen=True)
class Range:
    """A numeric search range, both ends included; `log` samples uniformly in the logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """A categorical search range."""

    options: tuple[Any, ...]


def hyper(
    default: Any, meaning: str, *, tune: Range | Choice | None = None, **constraints: Any
) -> Any:
    """Declare a hyper-parameter of a `Configurable` class.

    Args:
        default: the value if none is given.
        meaning: one line, shown by `bench.py show NAME`.
        tune: the range that the tuner may search; None is never tuned.
        constraints: arguments of pydantic's `Field`: `gt`, `ge`, `lt`, `le`, `multiple_of`, …
    """
    field: FieldInfo = pydantic.Field(default, description=meaning, **constraints)
    # The search range is stored as metadata of pydantic's field; pydantic ignores metadata that it
    # does not know.
    field.metadata.append(tune)
    return field


class HyperModel(pydantic.BaseModel):
    """The validated hyper-parameters of one component."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class HyperInfo:
    """The description of one hyper-parameter."""

    name: str
    type: str
    default: Any
    meaning: str
    tune: Range | Choice | None


def hyper_infos(model: type[HyperModel]) -> list[HyperInfo]:
    """Return the hyper-parameters of a model, in the order of declaration, inherited ones first."""
    return [
        HyperInfo(
            name=name,
            type=_type_name(field.annotation),
            default=field.default,
            meaning=field.description or "",
            tune=next((m for m in field.metadata if isinstance(m, Range | Choice)), None),
        )
        for name, field in model.model_fields.items()
    ]


def validated(model: type[HyperModel], owner: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` with every default filled in.

    Raises:
        RequestError: an unknown name (the message gives the nearest) or an invalid value.
    """
    for name in options:
        if name not in model.model_fields:
            hint = nearest(name, model.model_fields)
            raise RequestError(f"{owner} has no hyper-parameter {name!r}{hint}")
    try:
        return model.model_validate(dict(options)).model_dump()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        # Deeper parts of the location name the alternatives of a union.
        where = first["loc"][0] if first["loc"] else "options"
        raise RequestError(
            f"{owner}: {where} = {first['input']!r} is not valid: {first['msg']}"
        ) from None


def refuse_bad_declaration(model: type[HyperModel], owner: str) -> None:
    """Refuse a default or an end of a search range that its own hyper-parameter rejects.

    Raises:
        RequestError: such a value, or a default that cannot be stored with a result.
    """
    fields = model.model_fields.items()
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields}
    for name, value in validated(model, owner, defaults).items():
        try:
            to_json(value)
        except PydanticSerializationError:
            raise RequestError(
                f"{owner}: {name} is a {type(value).__name__}, and a hyper-parameter is a number, "
                "text, a truth value, or a list or mapping of these; set what else there is in "
                "__init__"
            ) from None
    for info in hyper_infos(model):
        if isinstance(info.tune, Range):
            for end in (info.tune.low, info.tune.high):
                validated(model, f"the search range of {owner}", defaults | {info.name: end})


Declaration = tuple[Any, Any] | None
"""A hyper-parameter's type and default; None for a name that is not a hyper-parameter."""


class Configurable:
    """A class whose annotated attributes are its hyper-parameters.

    If several classes declare a name, the first in Python's attribute lookup order decides,
    whatever other bases inherit: with a value it is a hyper-parameter, as a `ClassVar` it is not.
    An annotation without a value declares nothing.

    `hyper_model` is the pydantic model that validates them; instances carry the values as
    attributes once `set_hyper` has run.
    """

    hyper_model: ClassVar[type[HyperModel]] = HyperModel
    _declared: ClassVar[dict[str, Declaration]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._declared = _declarations(cls)
        fields: dict[str, tuple[Any, Any]] = {}
        for base in reversed(cls.__mro__):
            own = base._declared if issubclass(base, Configurable) else _declarations(base)
            for name, declared in own.items():
                fields.pop(name, None)
                if declared is not None:
                    fields[name] = declared
        _refuse_untyped(cls, fields)
        cls.hyper_model = pydantic.create_model(  # type: ignore[call-overload]
            f"{cls.__name__}Hyper", __base__=HyperModel, **fields
        )
        for name, declared in cls._declared.items():
            # `cls.temperature` reads as its default, not as a pydantic field.
            if declared is not None and isinstance(declared[1], FieldInfo):
                setattr(cls, name, declared[1].default)

    @classmethod
    def refuse_bad_class(cls, owner: str) -> None:
        """Refuse a class that lacks what its kind of component has to declare.

        Raises:
            RequestError: the message names the owner, the value and the right one.
        """

    def set_hyper(self, options: Mapping[str, Any]) -> None:
        """Validate `options` and set every hyper-parameter on this instance."""
        owner = getattr(self, "name", type(self).__name__)
        for name, value in validated(self.hyper_model, owner, options).items():
            setattr(self, name, value)

    def hyper_values(self) -> dict[str, Any]:
        """Return the values that this instance runs with."""
        return {name: getattr(self, name) for name in self.hyper_model.model_fields}


def function_hyper_model(function: Callable[..., Any]) -> type[HyperModel]:
    """Return the hyper-parameters of a function: its keyword-only arguments with defaults."""
    hints = typing.get_type_hints(function)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return pydantic.create_model(f"{function.__name__}_hyper", __base__=HyperModel, **fields)


def _declarations(cls: type) -> dict[str, Declaration]:
    """Return a class's own declarations; one that is not configurable can only remove names."""
    declared: dict[str, Declaration] = {}
    for name, annotation in _own_annotations(cls).items():
        if typing.get_origin(annotation) is ClassVar:
            declared[name] = None
        elif issubclass(cls, Configurable) and name in vars(cls):
            declared[name] = (annotation, vars(cls)[name])
    return declared


def _refuse_untyped(cls: type[Configurable], fields: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse an untyped value for an inherited hyper-parameter, which would have no effect."""
    for name in fields.keys() & vars(cls).keys() - cls._declared.keys():
        kind = _type_name(fields[name][0])
        raise RequestError(
            f"{cls.__name__}.{name} = {vars(cls)[name]!r} has no type and changes no default: "
            f"write `{name}: {kind} = …`, or `{name}: ClassVar = …` where it cannot be set"
        )


def _own_annotations(cls: type) -> dict[str, Any]:
    own = inspect.get_annotations(cls)
    hints = typing.get_type_hints(cls, include_extras=True) if own else {}
    return {name: hints[name] for name in own}


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        return _type_name(annotation.__origin__)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " | ".join(_type_name(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(repr(option) for option in typing.get_args(annotation))
    return "None" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
