"""The errors that a user can mend: one line that quotes the value and names the remedy."""

from __future__ import annotations

from pathlib import PurePath


class UnembedError(ValueError):
    """The input cannot be used as given; the message says which value and what to do instead.

    The command line prints it as one line and exits with status 2.
    """


def need(value: object, kind: type, remedy: str) -> None:
    """Raise UnembedError where a value is not of a kind; ``remedy`` says how to get one."""
    if isinstance(value, kind):
        return
    plain = isinstance(value, str | bytes | int | float | PurePath | None)
    given = f"{value!r:.60}" if plain else f"a {type(value).__name__}"
    raise UnembedError(f"{given} is no {kind.__name__}: {remedy}")


class HeadError(UnembedError):
    """The model has no output head that can be recovered and proved."""


class NonFiniteError(UnembedError):
    """More rows with non-finite logits than the limit allows."""


class WriteError(UnembedError):
    """The system refuses to write a file; the same command goes on once it can."""
