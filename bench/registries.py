"""All that can be registered, and where a name is found."""

from __future__ import annotations

from bench.model import EXPERTS
from routers import AFFINITIES, LOSSES, ROUTERS, Entry, Registry, RequestError
from routers.errors import nearest, unknown

REGISTRIES: tuple[Registry, ...] = (ROUTERS, EXPERTS, AFFINITIES, LOSSES)
"""What a system is made of, in the order in which a name is looked up and lists show it."""


def find_component(name: str) -> Entry:
    """A component by its name, or by `kind:name`; of several kinds with one name a router.

    Raises:
        RequestError: there is none of that name, or several that are no routers.
    """
    kind, colon, own = name.rpartition(":")
    if colon:
        return _registry(kind).get(own)
    found = [registry for registry in REGISTRIES if name in registry.names()]
    if not found:
        known = [own for registry in REGISTRIES for own in registry.names()]
        raise RequestError(f"no component is named {name!r}{unknown(name, known)}")
    if len(found) > 1 and found[0] is not ROUTERS:
        choices = " or ".join(f"{registry.kind}:{name}" for registry in found)
        raise RequestError(f"several components are named {name!r}; say {choices}")
    return found[0].get(name)


def _registry(kind: str) -> Registry:
    kinds = {registry.kind: registry for registry in REGISTRIES}
    if kind not in kinds:
        raise RequestError(f"there is no kind {kind!r} of components{nearest(kind, kinds)}")
    return kinds[kind]
