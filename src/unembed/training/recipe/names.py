"""The objectives and scopes of a refinement by name, and what each is.

The command line's help, the checks of recipes and the penalties read these lists. A new objective
is a function ``(objective, said) -> Penalties`` of its name, in a file here, and a line.
"""

from __future__ import annotations

from dataclasses import dataclass

from unembed.models.names import DTYPES


@dataclass(frozen=True)
class ObjectiveName:
    """What an objective's penalty is, the file of its function, and what that needs.

    With ``cosines`` it reads those of the leading tokens' rows. With ``directions`` it can be
    expanded as well as contracted. With ``gated`` the model's decisions say which positions count,
    by a function of its name and ``_counted`` beside it.
    """

    meaning: str
    home: str = "objectives"
    cosines: bool = False
    directions: bool = False
    gated: bool = False


OBJECTIVES = {
    "none": ObjectiveName("no penalty, the control"),
    "margin": ObjectiveName("minus the margin, where that is below a threshold", gated=True),
    "fisher": ObjectiveName("Fisher spread of the leading rows", cosines=True, directions=True),
    "entropy": ObjectiveName("entropy of the full vocabulary"),
    "cosine": ObjectiveName("spread of the leading rows by their cosines", cosines=True),
}
DIRECTIONS = ("contract", "expand")
SAVE_DTYPES = DTYPES[1:]
"""Precisions that a refined model can be saved in."""

SCOPES = ("full", "last-N-blocks", "final-norm", "head", "norm+head", "lora")
UNTIED = ("full", "head", "norm+head")
"""The scopes that move the head's own matrix, and so can move it apart from the embedding."""
