"""How to read a model's layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unembed.decisions.cloud.reservoir import POINTS
from unembed.decisions.layers.names import LENSES, Lens, lenses_of
from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.checkpoint import Checkpoint, token_ids
from unembed.models.depths import Depths
from unembed.models.model_pass import ReadingOptions

LAYER_POSITIONS = 20_000
PART_POSITIONS = 1 << 13
"""A part holds a table for each depth and lens at once, so fewer positions than an audit's."""


@dataclass(frozen=True)
class LayersOptions(ReadingOptions):
    """At which depths, by which lenses, a text that is read as ``ReadingOptions`` says is measured.

    ``depths`` None are all, 0 to the number of blocks; the last is always in, and so is the lens
    ``normed``. ``top_k`` leading candidates are kept at every depth, 2 at least: penalties read
    them. ``fitted_lens`` is the file of a lens that an earlier run fitted, of whose own text the
    half that it was fitted on does not measure it; None fits one on half of the documents, drawn by
    ``seed``. The shape of the cloud of states is measured at ``cloud_points`` positions (0: not at
    all), drawn by it too, or at the last position of each document with ``cloud_last``. Up to
    ``max_nonfinite`` positions with a logit that is not finite at some depth are kept as nulls
    before the run fails.
    """

    max_positions: int | None = LAYER_POSITIONS
    part_positions: int = PART_POSITIONS
    spread: bool = True
    depths: tuple[int, ...] | None = None
    lenses: tuple[Lens, ...] = LENSES
    top_k: int = 5
    fitted_lens: Path | None = None
    cloud_points: int = POINTS
    cloud_last: bool = False
    max_nonfinite: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stored is not None:
            raise UnembedError("stored states are those of one depth: give the text itself")
        object.__setattr__(self, "lenses", lenses_of(self.lenses))
        if self.top_k < 2:
            raise UnembedError(
                f"--top-k {self.top_k} is too few: the penalties are of the leading candidates, so "
                "give at least 2"
            )
        if self.cloud_last and not self.cloud_points:
            raise UnembedError("--cloud-last is of the cloud that --cloud-points 0 leaves out")
        for name in ("cloud_points", "max_nonfinite", "seed"):
            if getattr(self, name) < 0:
                raise UnembedError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.depths is not None and min(self.depths, default=-1) < 0:
            raise UnembedError(f"depths {self.depths} are none: give numbers from 0 on")
        if self.fitted_lens is not None and "fitted" not in self.lenses:
            raise UnembedError(
                f"--fitted-lens {self.fitted_lens} is not used by --lens "
                f"{','.join(self.lenses)}: add fitted, or leave the file out"
            )

    def check_model(self, checkpoint: Checkpoint) -> None:
        """Raise UnembedError for what this model cannot give, before a text is read."""
        super().check_model(checkpoint)
        self.wanted(Depths.of(checkpoint.model))
        rows = int(output_embedding(checkpoint.model).weight.shape[0])
        self.check_candidates(sum(token < rows for token in token_ids(checkpoint.tokenizer)))

    def check_candidates(self, tokens: int) -> None:
        """Raise UnembedError where more candidates are asked for than a head has tokens."""
        if self.top_k > max(tokens, LayersOptions.top_k):
            raise UnembedError(
                f"--top-k {self.top_k} is more than the {tokens:,} tokens that the head decides "
                f"between: give at most {tokens}"
            )

    def wanted(self, depths: Depths) -> tuple[int, ...]:
        """The depths that are measured of a model's, ascending.

        Raises UnembedError for one that is not there.
        """
        if self.depths is None:
            return tuple(range(depths.blocks + 1))
        depths.check(self.depths)
        return tuple(sorted({*self.depths, depths.blocks}))
