"""Texts: messages for people, canonical JSON for comparing and hashing, hand-written YAML."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
MOST_NAMES = 8
"""Largest number of entries that a text names."""
LONGEST = 100
RULE = (
    f"a name is at most {LONGEST} letters, digits, '.', '-' and '_', and begins with none of "
    "'.' and '-'"
)


class StoreError(Exception):
    """The database cannot do what was asked. Commands end with `exit_status`."""

    exit_status = 2


class UnstorableError(StoreError):
    """A value that no database can store, whether or not one can be reached."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return the end of a message: the options nearest to a name, or all of them if none is."""
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.65)
    if close:
        return f"; did you mean {' or '.join(repr(match) for match in close)}?"
    return f"; available: {', '.join(known) or 'none'}"


def counted(number: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 seed`, `1,200 seeds`, `2 studies`."""
    return f"{number:,.12g} {noun if number == 1 else plural or noun + 's'}"


def changed_names(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Name the entries that were changed, added or removed: `: a, b and 2 more`; "" if none."""
    names = sorted(dict(before.items() ^ after.items()))
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f": {', '.join(names[:MOST_NAMES])}{more}" if names else ""


def readable(text: str) -> str:
    r"""Return `text` with lone surrogates and NUL escaped: `caf\xe9`.

    Python decodes an invalid byte of a file name as a surrogate, which cannot be encoded again.
    PostgreSQL stores no NUL.
    """
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    byte = code == 0 or 0xDC80 <= code <= 0xDCFF
    return f"\\x{code & 0xFF:02x}" if byte else f"\\u{code:04x}"


def fault_of(name: str) -> str:
    """Say why a text cannot name a study, with the nearest name that can; return "" if it can."""
    if len(name) <= LONGEST and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        return ""
    near = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:LONGEST].rstrip(".-")
    return f"{RULE}{f'; {near!r} would do' if near else ''}"


def to_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give the same text.

    Raises:
        UnstorableError: the value holds something that JSON lacks: an object, NaN or infinity.
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError) as error:
        raise UnstorableError(f"not plain JSON data ({error}): {value!r:.200}") from error


def content_hash(record: DataclassInstance) -> str:
    """Return the SHA-256 (hex) of all fields of a record; equal records share a row."""
    return hashlib.sha256(to_json(asdict(record)).encode()).hexdigest()


class _Loader(yaml.SafeLoader):
    """A loader of plain data that rejects mappings with duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        times = Counter((key.tag, key.value) for key in keys)
        for key in keys:
            if times[key.tag, key.value] > 1:
                raise yaml.MarkedYAMLError(f"the key {key.value!r} occurs twice", key.start_mark)
        return node


# Dates stay strings: no setting is a date, and JSON has none.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.1 reads `1e-3` as a string, since it lacks a dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text; `1e-3` is a number, and duplicate keys are refused.

    Raises:
        yaml.YAMLError: it is not YAML, or a mapping has a duplicate key.
        ValueError, RecursionError: a value does not fit its type, or is nested too deeply.
    """
    return yaml.load(text, Loader=_Loader)
