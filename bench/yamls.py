"""YAML as people write it: `1e-3` is a number, and a mistake is one message."""

from __future__ import annotations

import re
from typing import Any

import yaml

from routers.errors import RequestError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text, since it lacks the dot; this loader reads a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def parse(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
        where: names the text in the message.

    Raises:
        RequestError: it is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RequestError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
