"""The quantities of theory §7 that two tasks are compared by, with their names and meanings."""

from __future__ import annotations

from dataclasses import dataclass

from unembed.stats.forms import Form, cosine, three


@dataclass(frozen=True)
class AlignmentKind:
    """What a quantity is called, what it asks of two tasks ("" where no page explains it), and how
    it is written.
    """

    label: str
    meaning: str = ""
    form: Form = cosine


ALIGNMENT_KINDS = {
    "joint": AlignmentKind(
        "joint",
        "Do two tasks push the output head along the same directions? 1: the same ones. "
        "0: none in common. Which way along them does not count.",
    ),
    "activation": AlignmentKind(
        "activation", "The input side alone: is the head reading alike hidden states?"
    ),
    "error": AlignmentKind(
        "error", "The output side alone: are alike tokens predicted too much or too little?"
    ),
    "proxy": AlignmentKind("activation × error"),
    "coupling": AlignmentKind(
        "coupling",
        "Joint over activation × error. 1: the two sides are independent. Above: alike errors are "
        "made in alike states. Below: they are made in different ones.",
        three,
    ),
    "first_moment": AlignmentKind(
        "first moment",
        "The cosine of mean gradients, with its sign. Above 0 the tasks pull the head the same "
        "way, below 0 against each other.",
    ),
}
KINDS = tuple(ALIGNMENT_KINDS)
