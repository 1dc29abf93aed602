"""When in a training the penalty counts."""

from __future__ import annotations

from dataclasses import dataclass

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr

ROUNDING = 1e-9
"""By how much two shares that add up to 1 may do so in floating point."""


@dataclass(frozen=True)
class Schedule(ShortRepr):
    """Nothing before the share ``after`` of the steps, a linear rise over ``ramp`` of them, all.

    ``Schedule(after=0.5, ramp=0.1)`` leaves the first half of a training as it is, lets the penalty
    rise over the next tenth of the steps, and counts it in full from there to the end. The number
    of steps is all that it depends on: a training that goes on has the factors it would have had.

    Raises UnembedError unless 0 <= after < 1, 0 <= ramp and after + ramp <= 1.
    """

    after: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.after < 1:
            raise UnembedError(
                f"the penalty begins after {self.after} of the steps: give a share from 0 up and "
                "below 1"
            )
        if not 0 <= self.ramp <= 1:
            raise UnembedError(
                f"the penalty rises over {self.ramp} of the steps: give a share from 0 to 1"
            )
        if self.after + self.ramp > 1 + ROUNDING:
            raise UnembedError(
                f"after {self.after} and ramp {self.ramp} make {self.after + self.ramp:g} of the "
                "steps, and the penalty would never count in full: give shares that add up to 1 at "
                "most"
            )

    def factor(self, step: int, steps: int) -> float:
        """What the penalty's weight is multiplied by at this step, from 0, of so many in all.

        Equivalent to ``min(1, (step / steps - after) / ramp)`` from ``after`` on and 0 before; 1
        from there on without a ramp. ``Schedule()`` has exactly 1 at every step.
        """
        if self == Schedule():
            return 1.0
        done = step / steps
        if done < self.after:
            return 0.0
        return min(1.0, (done - self.after) / self.ramp) if self.ramp else 1.0
