"""YAML as people write it: `1e-3` is a number, and a key that stands twice is a mistake."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """A loader of plain data, in which no mapping has a key twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        times = Counter((key.tag, key.value) for key in keys)
        for key in keys:
            if times[key.tag, key.value] > 1:
                raise yaml.MarkedYAMLError(f"the key {key.value!r} stands twice", key.start_mark)
        return node


# Dates stay texts: no setting is one, and JSON has none.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.1 reads `1e-3` as text, since it lacks the dot.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, or a mapping has a key twice.
        ValueError, RecursionError: it holds no value of the kind that it names, or is too deep.
    """
    return yaml.load(text, Loader=_Loader)
