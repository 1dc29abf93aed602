"""The errors that a user can mend: one line that quotes the value and names the remedy."""

from __future__ import annotations


class UnembedError(ValueError):
    """The input cannot be used as given; the message says which value and what to do instead.

    The command line prints it as one line and exits with status 2.
    """


class HeadError(UnembedError):
    """The model has no output head that can be recovered and proved."""


class NonFiniteError(UnembedError):
    """More rows with non-finite logits than the limit allows."""


class WriteError(UnembedError):
    """The system refuses to write a file; the same command goes on once it can."""
