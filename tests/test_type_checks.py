"""The tests' own checks of types see what jaxtyping's do, in functions with axes and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float

import unembed
from type_checks import checked
from unembed.stats.bootstrap import ratio_estimates
from unembed.stats.estimate import Estimate

check = checked(typechecker=beartype)


@check
def product(
    a: Float[np.ndarray, "rows inner"], b: Float[np.ndarray, "inner columns"]
) -> Float[np.ndarray, "rows columns"]:
    return a @ b


@check
@dataclass(frozen=True)
class Plain:
    name: str
    sizes: tuple[int, ...]


@check
def length(plain: Plain, of: list[int] | None = None) -> int:
    return "much" if plain.name == "much" else len(of or plain.sizes)  # type: ignore[return-value]


def test_an_axis_has_one_size_within_a_call() -> None:
    assert product(np.ones((2, 3)), np.ones((3, 4))).shape == (2, 4)
    with pytest.raises(jaxtyping.TypeCheckError):
        product(np.ones((2, 3)), np.ones((4, 4)))


def test_types_without_axes_are_checked_as_they_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong: Any = 3
    assert length(Plain("a", (1, 2))) == 2
    for call in (
        lambda: Plain(wrong, (1,)),
        lambda: Plain("a", wrong),
        lambda: length(wrong),
        lambda: length(Plain("a", ()), of=("x",)),  # type: ignore[arg-type]
        lambda: length(Plain("much", ())),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert length(Plain("much", ())) == "much"  # type: ignore[comparison-overlap]


def test_the_package_is_checked() -> None:
    wrong: Any = "wrong"
    with pytest.raises(jaxtyping.TypeCheckError):
        unembed.Recipe(steps=wrong)
    with pytest.raises(jaxtyping.TypeCheckError):
        Estimate(wrong)
    with pytest.raises(jaxtyping.TypeCheckError):
        ratio_estimates(np.ones((1, 3)), np.ones((1, 4)))
