"""What is known of a checkpoint before its weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unembed.models.adapters import base_of, is_adapter_alone
from unembed.models.checkpoint import configuration_of, configured_context, load_tokenizer


@dataclass(frozen=True)
class Outline:
    """A checkpoint's tokenizer, and what its configuration says of its length and its head.

    ``context`` is the most tokens that it reads, ``rows`` the rows of its head; None where the
    configuration does not say.
    """

    name: str
    tokenizer: Any
    context: int | None
    rows: int | None


def outline_of(name: str, base: str | None = None) -> Outline:
    """The outline of a checkpoint, a GGUF file, or the base of an adapter.

    Raises UnembedError as ``load`` does of a configuration and a tokenizer.
    """
    whole = base_of(name, base) if is_adapter_alone(name) else name
    config = configuration_of(whole)
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return Outline(
        name,
        load_tokenizer(whole),
        configured_context(config),
        rows if isinstance(rows, int) else None,
    )
