"""What the tests check of the types of a call, and at what price.

``--jaxtyping-packages`` has every function and record of the package checked as it is called. What
jaxtyping does for that, so that one axis name means one size within a call, was a third of the
time of many tests. Where no annotation names an axis plain beartype checks the same types. A
function within another, of which a new one is made in each call, is left to mypy if it names no
axis.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

with_axes = jaxtyping.jaxtyped
AS_JAXTYPING = BeartypeConf(violation_type=jaxtyping.TypeCheckError)
"""A TypeError, as without checks what does not fit raises one sooner or later."""


def checked(thing: Any = None, *, typechecker: Any) -> Any:
    """A function, or a record's constructor, that checks its types when it is called."""
    if thing is None:
        return partial(checked, typechecker=typechecker)
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = function_checked(thing.__init__, typechecker, nested=False)
        return thing
    if not inspect.isfunction(thing):
        return with_axes(thing, typechecker=typechecker)
    return function_checked(thing, typechecker, nested="<locals>" in thing.__qualname__)


def function_checked(function: Any, typechecker: Any, nested: bool) -> Any:
    hints = {name: resolved(hint, function) for name, hint in function.__annotations__.items()}
    if any(map(names_an_axis, hints.values())):
        return with_axes(function, typechecker=typechecker)
    return function if nested else without_axes(function, hints)


def resolved(hint: Any, function: Callable[..., Any]) -> Any:
    """What an annotation means at its function's definition; Any where it means nothing yet."""
    if not isinstance(hint, str):
        return hint

    def of() -> None: ...

    of.__annotations__ = {"return": hint}
    try:
        return get_type_hints(of, function.__globals__, include_extras=True)["return"]
    except Exception:  # a name that only type checkers import, or the class that is being defined
        return Any


def names_an_axis(hint: Any) -> bool:
    if isinstance(hint, list):
        return any(map(names_an_axis, hint))
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(
        map(names_an_axis, get_args(hint))
    )


def without_axes(function: Callable[..., Any], hints: dict[str, Any]) -> Callable[..., Any]:
    written, function.__annotations__ = function.__annotations__, hints
    try:
        plain: Callable[..., Any] = beartype(function, conf=AS_JAXTYPING)
    finally:
        function.__annotations__ = written
    if plain is function:
        return function

    @wraps(function)
    def either(*given: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        return (function if jaxtyping.config.jaxtyping_disable else plain)(*given, **named)

    return either


# The decorator that jaxtyping's import hook writes before everything, by this name.
jaxtyping.jaxtyped = checked
