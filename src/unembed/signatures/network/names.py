"""What the parts of a network's signature are called."""

from __future__ import annotations

FULL, BLOCKS = "full", "blocks"
"""Of all modules: gradients as one vector, and each module by itself."""
MODULE = "module:"
"""Before the name of a module."""
DEFAULT_PART = BLOCKS
"""The part that is compared where none is named; none orders sources better for sure
(docs/findings/network.md)."""


def part_words(part: str) -> str:
    """What would be moved, in plain words: "the head", "depth 7"."""
    kind, _, name = part.partition(":")
    return {
        "": "the head",
        "head": "the head",
        FULL: "the whole network",
        BLOCKS: "the network’s modules",
        "depth": f"depth {name}",
        "kind": f"every {name}",
    }.get(kind, name)


def place_words(part: str) -> str:
    """A part's name where parts are listed: "depth 7", "blocks", "q_proj", "all of it"."""
    kind, _, name = part.partition(":")
    if kind == "depth":
        return f"depth {name}"
    return {BLOCKS: "all modules (blocks)", FULL: "whole network (full)"}.get(kind, name or kind)


def said_of(words: str, part: str) -> str:
    """Words about the head, of the part that they are of."""
    if not part:
        return words
    named = part_words(part)
    return words.replace("the output head", named).replace("the head", named)
