"""The fitted lens: from a depth's states to the head's input, by ridge regression."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unembed.errors import UnembedError
from unembed.head.product import Route, left_operand, multiply, right_operand
from unembed.short_repr import ShortRepr
from unembed.stats.splitmix import STEP, mixed

LENS_FILE = "fitted-lens.safetensors"
KEY = "unembed.lens"
SCHEMA = 1
RIDGE = 0.1
"""The penalty over the states' variance a position: docs/decisions/fitted-lens.md."""
FEWEST_DOCUMENTS = 4
"""Two to fit on, and two to measure on: an interval takes two."""
MOST_LETTERS = 160
BY_DEPTH = ("x", "xx", "xy", "origin")

Each = Callable[..., Iterable[Any]]
"""``map``, or that of a pool of threads."""


@dataclass(frozen=True)
class Split(ShortRepr):
    """Half of a text's documents, on which the lens is fitted; it is measured on the others."""

    fit: Int[np.ndarray, " documents"]
    seed: int

    @staticmethod
    def of(documents: Int[np.ndarray, " documents"], seed: int) -> Split:
        """The first half of the documents in an order that looks random and hangs on the seed.

        Raises UnembedError for too few.
        """
        if len(documents) < FEWEST_DOCUMENTS:
            raise UnembedError(
                f"a lens is fitted on half of the documents and measured on the others, and the "
                f"text has {len(documents)}: give {FEWEST_DOCUMENTS} or more (--document says "
                "what one is), or --lens normed,raw"
            )
        turned = mixed(np.array([seed], dtype=np.uint64) * STEP)
        order = np.argsort(
            mixed(mixed((documents.astype(np.uint64) + np.uint64(1)) * STEP) ^ turned)
        )
        return Split(np.sort(documents[order[: len(documents) // 2]]), seed)

    def check(self, documents: Int[np.ndarray, " documents"]) -> None:
        """Raise UnembedError where too few documents are left to measure on."""
        left = int(self.measured(documents).sum())
        if left < FEWEST_DOCUMENTS // 2:
            raise UnembedError(
                f"of the text's {len(documents)} documents the lens was fitted on all but {left}, "
                "and is measured on the others: give another text, or --lens normed,raw"
            )

    def measured(self, doc: Int[np.ndarray, " positions"]) -> Bool[np.ndarray, " positions"]:
        """Which positions are not among those that the lens was fitted on."""
        found: Bool[np.ndarray, " positions"] = ~np.isin(doc, self.fit)
        return found


@dataclass(frozen=True)
class AffineMap(ShortRepr):
    """``A h + b``: from a depth's states to the head's input."""

    matrix: Float32[Tensor, "dim width"]
    offset: Float32[Tensor, " dim"]

    def __call__(
        self, states: Float[Tensor, "rows width"], route: Route
    ) -> Float32[Tensor, "rows dim"]:
        """The mapped states; a row's bits do not depend on the others in the call on a CPU."""
        left = left_operand(states.float(), torch.float32, route)
        right = right_operand(self.matrix.to(states.device), left)
        made = torch.empty(len(left), len(right), dtype=torch.float32, device=states.device)
        multiply(left, right, route, made)
        return made[: len(states), : len(self.offset)] + self.offset.to(states.device)


@dataclass
class NormalEquations:
    """Sums over positions of states x at each depth and of the head's input y, in float64.

    ``xx`` holds ``sum x x'``, ``xy`` ``sum x y'``: added in the order in which they are given, so
    that the same positions in the same batches give the same bits. Both are taken from an
    ``origin``, the first position, so that a cloud far from zero loses no digits.
    """

    widths: Mapping[int, int]
    dim: int
    n: int = 0
    x: dict[int, Float64[Tensor, " width"]] = field(default_factory=dict)
    xx: dict[int, Float64[Tensor, "width width"]] = field(default_factory=dict)
    xy: dict[int, Float64[Tensor, "width dim"]] = field(default_factory=dict)
    origin: dict[int, Float64[Tensor, " width"]] = field(default_factory=dict)
    y_origin: Float64[Tensor, " dim"] | None = None
    y: Float64[Tensor, " dim"] = field(init=False)
    yy: Float64[Tensor, " dim"] = field(init=False)

    def __post_init__(self) -> None:
        self.y, self.yy = (torch.zeros(self.dim, dtype=torch.float64) for _ in range(2))
        for depth, width in self.widths.items():
            self.x[depth] = torch.zeros(width, dtype=torch.float64)
            self.xx[depth] = torch.zeros(width, width, dtype=torch.float64)
            self.xy[depth] = torch.zeros(width, self.dim, dtype=torch.float64)

    @staticmethod
    def bytes_of(widths: Sequence[int], dim: int) -> int:
        """What the sums take in memory, and the solution of the widest besides."""
        widest = max(widths)
        return sum(8 * width * (width + dim) for width in (*widths, widest, widest))

    def add(
        self,
        states: Mapping[int, Float[Tensor, "positions width"]],
        y: Float[Tensor, "positions dim"],
        each: Each = map,
    ) -> None:
        """Add some positions. ``each`` may do several depths at a time: each has its own sums."""
        inputs = y.double().cpu()
        if self.y_origin is None:
            self.y_origin = inputs[0].clone()
            self.origin = {depth: states[depth][0].double().cpu() for depth in self.widths}
        inputs = inputs - self.y_origin
        work = [partial(self._add_states, depth, states[depth], inputs) for depth in self.widths]
        list(each(lambda add: add(), [partial(self._add_inputs, inputs), *work]))

    def merge(self, other: NormalEquations) -> None:
        """Add the sums of other positions, moved by the difference ``d`` of the two origins.

        ``sum (x + d)(x + d)' = sum x x' + x d' + d x' + n d d'``, entry by entry: the same bits
        whatever the number of threads.
        """
        if other.n == 0:
            return
        if self.y_origin is None or other.y_origin is None:
            for name in ("n", "x", "xx", "xy", "origin", "y_origin", "y", "yy"):
                setattr(self, name, getattr(other, name))
            return
        n, e = other.n, other.y_origin - self.y_origin
        for depth in self.widths:
            x, y, d = other.x[depth], other.y, other.origin[depth] - self.origin[depth]
            moved = torch.outer(x, d)
            self.xx[depth] += other.xx[depth] + (moved + moved.T) + n * torch.outer(d, d)
            self.xy[depth] += (
                other.xy[depth] + torch.outer(x, e) + torch.outer(d, y) + n * torch.outer(d, e)
            )
            self.x[depth] += x + n * d
        self.yy += other.yy + 2 * e * other.y + n * e.square()
        self.y += other.y + n * e
        self.n += n

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name; ``of_tensors`` reads it back."""
        found = {"n": torch.tensor(self.n)}
        if self.y_origin is None:
            return found
        found |= {"y": self.y, "yy": self.yy, "y_origin": self.y_origin}
        for name in BY_DEPTH:
            found |= {f"{name}.{depth}": one for depth, one in getattr(self, name).items()}
        return found

    @staticmethod
    def of_tensors(
        widths: Mapping[int, int], dim: int, tensors: Mapping[str, Tensor]
    ) -> NormalEquations:
        """What ``tensors`` gave."""
        found = NormalEquations(widths, dim, int(tensors["n"]))
        if found.n:
            found.y, found.yy, found.y_origin = (tensors[name] for name in ("y", "yy", "y_origin"))
            for name in BY_DEPTH:
                setattr(found, name, {depth: tensors[f"{name}.{depth}"] for depth in widths})
        return found

    def _add_inputs(self, y: Float64[Tensor, "positions dim"]) -> None:
        self.n += len(y)
        self.y += y.sum(0)
        self.yy += y.square().sum(0)

    def _add_states(
        self,
        depth: int,
        states: Float[Tensor, "positions width"],
        y: Float64[Tensor, "positions dim"],
    ) -> None:
        x = states.double().cpu() - self.origin[depth]
        self.x[depth] += x.sum(0)
        self.xx[depth].addmm_(x.T, x)
        self.xy[depth].addmm_(x.T, y)

    def solve(self, depth: int, ridge: float = RIDGE) -> tuple[AffineMap, float]:
        """The map of a depth, and the share of the head's input's variance that it explains.

        ``A = C_yx (C_xx + ridge tr(C_xx) / n I)^-1``, ``b = mean y - A mean x``, C the centred
        covariances of the n positions that were added: the offset carries no penalty, and more
        positions need less of it. Where the states are constant ``A`` is 0. Equivalent to
        ``numpy.linalg.lstsq`` of the centred states with ``sqrt(ridge tr(C_xx)) I`` below them.
        Source: theory §3.
        """
        mean_x, mean_y = self.x[depth] / self.n, self.y / self.n
        xx = self.xx[depth] / self.n - torch.outer(mean_x, mean_x)
        xy = self.xy[depth] / self.n - torch.outer(mean_x, mean_y)
        variance = float(xx.diagonal().sum())
        if variance > 0:
            shifted = xx + ridge * variance / self.n * torch.eye(len(xx), dtype=torch.float64)
            found = torch.cholesky_solve(xy, torch.linalg.cholesky(shifted))
        else:
            found = torch.zeros_like(xy)
        spread = float((self.yy / self.n - mean_y.square()).sum())
        left = spread - float((2 * found * xy - found * (xx @ found)).sum())
        explained = 1 - left / spread if spread > 0 else 0.0
        assert self.y_origin is not None
        offset = self.y_origin + mean_y - (self.origin[depth] + mean_x) @ found
        return AffineMap(found.T.float().contiguous(), offset.float()), explained


@dataclass(frozen=True)
class FittedLens(ShortRepr):
    """An affine map for each depth, with the model and the text that it was fitted on.

    ``documents`` are those of the text ``corpus`` by number, which do not measure it; ``positions``
    counts theirs. ``explained`` is the share of the variance of the head's input at each depth, on
    those. ``digest`` is the SHA-256 of all of it.
    """

    maps: dict[int, AffineMap]
    model: str
    model_digest: str
    corpus: str
    documents: Int[np.ndarray, " documents"]
    positions: int
    seed: int
    ridge: float
    explained: dict[int, float]

    @staticmethod
    def of(
        sums: NormalEquations,
        split: Split,
        model: str,
        model_digest: str,
        corpus: str,
        each: Each = map,
    ) -> FittedLens:
        """Solve the equations of every depth. Raises UnembedError where states are not finite."""
        for depth in sums.widths:
            if not bool(torch.isfinite(sums.xx[depth]).all() & torch.isfinite(sums.yy).all()):
                raise UnembedError(
                    f"{model} has states at depth {depth} that are not finite, so no lens can be "
                    "fitted: mend the weights, give --depths without it, or --lens normed"
                )
        solved = dict(zip(sums.widths, each(sums.solve, sums.widths), strict=True))
        return FittedLens(
            maps={depth: found for depth, (found, _share) in solved.items()},
            model=model,
            model_digest=model_digest,
            corpus=corpus,
            documents=split.fit,
            positions=sums.n,
            seed=split.seed,
            ridge=RIDGE,
            explained={depth: share for depth, (_found, share) in solved.items()},
        )

    @property
    def digest(self) -> str:
        """SHA-256 of every number and fact."""
        facts, tensors = self._parts()
        return _digest(facts, tensors)

    def to_bytes(self) -> bytes:
        """A safetensors file; the same lens gives the same bytes."""
        facts, tensors = self._parts()
        sealed = {**facts, "sha256": _digest(facts, tensors)}
        return save(tensors, {KEY: json.dumps(sealed, sort_keys=True)})

    def _parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors = {"documents": torch.from_numpy(self.documents.astype(np.int64))}
        for depth, one in self.maps.items():
            tensors |= {f"{depth:03d}.matrix": one.matrix, f"{depth:03d}.offset": one.offset}
        facts = {
            "schema": SCHEMA,
            "model": self.model,
            "model_digest": self.model_digest,
            "corpus": self.corpus,
            "positions": self.positions,
            "seed": self.seed,
            "ridge": self.ridge,
            "explained": {str(depth): share for depth, share in self.explained.items()},
        }
        return facts, tensors

    @staticmethod
    def read(path: str | Path) -> FittedLens:
        """Read what a run kept, every byte of it checked. Raises UnembedError for anything else."""
        path = Path(path)
        if not path.is_file():
            said = "is no file" if path.exists() else "does not exist"
            raise UnembedError(f"{path} {said}: give the {LENS_FILE} of an earlier run of layers")
        try:
            with safe_open(path, "pt") as file:
                facts_text = (file.metadata() or {}).get(KEY)
                if facts_text is None:
                    raise UnembedError(
                        f"{path} is no fitted lens: give the {LENS_FILE} of a run of layers"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads(facts_text)
            if facts["schema"] != SCHEMA:
                raise UnembedError(
                    f"{path} is a lens of schema {facts['schema']!r}, this version reads {SCHEMA}: "
                    "fit it again"
                )
            if facts.pop("sha256") != _digest(facts, tensors):
                raise ValueError("its SHA-256 is not the one it states")
            return _lens(facts, tensors)
        except UnembedError:
            raise
        except (
            SafetensorError,
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as bad:
            brief = " ".join(str(bad).split())[:MOST_LETTERS]
            raise UnembedError(
                f"{path} is damaged ({brief}): copy it again, or fit it again without --fitted-lens"
            ) from None

    def check(
        self, path: Path, model: str, model_digest: str, widths: Mapping[int, int], dim: int
    ) -> None:
        """Raise UnembedError where the lens is not one of this model at these depths."""
        if self.model_digest != model_digest:
            raise UnembedError(
                f"{path} was fitted to {self.model} ({self.model_digest[:12]}), and {model} is "
                f"another model ({model_digest[:12]}): give its own, or leave --fitted-lens out"
            )
        for depth, width in widths.items():
            if depth not in self.maps:
                raise UnembedError(
                    f"{path} has no depth {depth}, only {', '.join(map(str, self.maps))}: give "
                    "--depths among those, or leave --fitted-lens out"
                )
            if tuple(self.maps[depth].matrix.shape) != (dim, width):
                shape = " x ".join(map(str, self.maps[depth].matrix.shape))
                raise UnembedError(
                    f"{path} holds a map of {shape} at depth {depth}, where {model} needs {dim} x "
                    f"{width}: leave --fitted-lens out"
                )

    def split_of(self, corpus: str) -> Split:
        """Which documents of a text do not measure the lens: none of another one's."""
        same = corpus == self.corpus
        return Split(self.documents if same else np.zeros(0, dtype=np.int64), self.seed)


def _lens(facts: dict[str, Any], tensors: dict[str, Tensor]) -> FittedLens:
    names = sorted(name for name in tensors if name.endswith(".matrix"))
    maps = {
        int(name[:3]): AffineMap(tensors[name], tensors[f"{name[:3]}.offset"]) for name in names
    }
    return FittedLens(
        maps=maps,
        model=str(facts["model"]),
        model_digest=str(facts["model_digest"]),
        corpus=str(facts["corpus"]),
        documents=tensors["documents"].numpy(),
        positions=int(facts["positions"]),
        seed=int(facts["seed"]),
        ridge=float(facts["ridge"]),
        explained={int(depth): float(share) for depth, share in facts["explained"].items()},
    )


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        one = tensors[name].contiguous()
        digest.update(f"{name} {one.dtype} {tuple(one.shape)}".encode())
        digest.update(one.numpy().tobytes())
    return digest.hexdigest()
