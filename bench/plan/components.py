"""Everything that the bench has by name, and where a name is found."""

from __future__ import annotations

from bench.data import DATASETS, find_dataset
from bench.model import EXPERTS
from routers import AFFINITIES, LOSSES, ROUTERS, Entry, Registry, RequestError
from routers.errors import nearest, unknown
from suites import SUITES

REGISTRIES: dict[str, Registry] = {
    "routers": ROUTERS,
    "experts": EXPERTS,
    "affinities": AFFINITIES,
    "losses": LOSSES,
    "suites": SUITES,
    "datasets": DATASETS,
}
"""By kind, in the order in which a name is looked up and lists show it."""


def find_component(name: str) -> Entry:
    """Return a component by its name, or by `kind:name`; of several kinds with one name a router.

    A data set whose name takes an argument is found by a name that has one.

    Raises:
        RequestError: there is none of that name, or several that are no routers.
    """
    kind, colon, own = name.partition(":")
    families = [each.partition(":")[0] for each in DATASETS.names() if ":" in each]
    if colon and kind not in families:
        registry = find_registry(kind)
        return find_dataset(own)[0] if registry is DATASETS else registry.get(own)
    if colon:
        return find_dataset(name)[0]
    found = [registry for registry in REGISTRIES.values() if name in registry.names()]
    if not found:
        known = [own for registry in REGISTRIES.values() for own in registry.names()]
        raise RequestError(f"no component is named {name!r}{unknown(name, known)}")
    if len(found) > 1 and found[0] is not ROUTERS:
        choices = " or ".join(f"{registry.kind}:{name}" for registry in found)
        raise RequestError(f"several components are named {name!r}; say {choices}")
    return found[0].get(name)


def find_registry(kind: str) -> Registry:
    """Return the registry of a kind, in the plural or as its components are called.

    Raises:
        RequestError: there is no such kind.
    """
    kinds = REGISTRIES | {registry.kind: registry for registry in REGISTRIES.values()}
    if kind not in kinds:
        raise RequestError(f"there is no kind {kind!r} of components{nearest(kind, REGISTRIES)}")
    return kinds[kind]
