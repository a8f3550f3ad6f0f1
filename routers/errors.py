"""Errors that a user can fix: one message with the thing, the value and the nearest valid one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class BenchError(Exception):
    """A failure, described by its message. Commands end with its `exit_status`."""

    exit_status = 1


class RequestError(BenchError):
    """An invalid request by the user; the message says how to correct it."""

    exit_status = 2


class UndefinedError(RequestError):
    """A request that is undefined for its subject, so that its answer is missing."""


class NonFiniteError(BenchError):
    """Logits that cannot be routed: NaN, +∞, or a token with nothing but −∞.

    A training run that meets them has diverged; `router` is the module they belong to, if known.
    """

    def __init__(self, message: str, router: object = None) -> None:
        super().__init__(message)
        self.router = router

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str]]:
        return type(self), (str(self),)  # passes between processes without the module


def with_article(noun: str) -> str:
    """Return a noun with its article: `a SoftRouting`, `an ExpertChoiceRouting`."""
    return f"an {noun}" if noun[:1] in "AEIOUaeiou" else f"a {noun}"


def nearest(name: str, options: Iterable[str]) -> str:
    """Return the end of an error message: the nearest valid names, or all if none is near."""
    known = set(options)
    return offer(alike(name, known), known)


def alike(name: str, options: Iterable[str]) -> list[str]:
    """Return up to three names that this one may be a misspelling of, the nearest first."""
    return difflib.get_close_matches(name, sorted(set(options)), n=3, cutoff=0.65)


def offer(close: Sequence[str], known: Iterable[str]) -> str:
    """Return the end of an error message: the close names, or all known ones if there are none."""
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; available: {', '.join(sorted(known)) or 'none'}"


def misspelt(target: object, method: str, base: type) -> str:
    """Return a hint if the object's class, but not `base`, has a method with nearly this name."""
    close = alike(method, set(dir(type(target))) - set(dir(base)))
    return f"; it defines `{close[0]}`: did you mean `{method}`?" if close else ""


def unknown(name: str, options: Iterable[str]) -> str:
    """Return the end of a message on an unknown component: `nearest`, and how to register one."""
    end = nearest(name, options)
    stop = "" if end.endswith("?") else "."
    return f"{end}{stop} If it is your own, give its file: --plugin FILE"


def describe(error: BaseException) -> str:
    """Return one line: the type of the error, if that is informative, and its message."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return text if hasattr(error, "exit_status") and text else f"{kind}: {text}".rstrip(": ")
