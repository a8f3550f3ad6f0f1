"""Values and files that a user writes as YAML, read with one message for a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from results.yamls import read_yaml
from routers.errors import RequestError


def parse(text: str, where: str) -> Any:
    """The value of a YAML text.

    Args:
        where: names the text in the message.

    Raises:
        RequestError: it is not YAML, or a mapping has a key twice.
    """
    try:
        return read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def parse_file(file: Path, where: str) -> Any:
    """The value of a YAML file. Arguments and errors as of `parse`.

    Raises:
        RequestError: the file cannot be read, or is not text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RequestError(f"cannot read {where}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{where} is not a text file in UTF-8: {error}") from None
    return parse(text, where)
