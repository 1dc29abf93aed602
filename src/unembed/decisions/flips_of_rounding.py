"""What rounding flips in a model, before and after its weights were changed, paired by document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unembed.decisions.audit.audit import audit
from unembed.decisions.audit.run import AuditOptions
from unembed.models.checkpoint import Checkpoint
from unembed.models.quantization import quantized
from unembed.runs.progress import Steps
from unembed.short_repr import ShortRepr
from unembed.stats.bootstrap import cluster, ratio_estimates
from unembed.stats.estimate import Estimate
from unembed.text.corpus import Corpus


@dataclass(frozen=True)
class RoundingFlips(ShortRepr):
    """Shares of decisions that rounding flips in two models, and what lies between the two.

    A flip is a position where the rounded model decides otherwise than the same model unrounded.
    ``ratio`` is that of after to before, ``changed`` the share that the unrounded models decide
    differently. ``loss_before`` and ``loss_after`` are what rounding adds to the loss, in nats.
    """

    scheme: str
    before: Estimate
    after: Estimate
    ratio: Estimate
    changed: Estimate
    loss_before: Estimate
    loss_after: Estimate

    @property
    def verdict(self) -> str:
        """What it comes to, in a sentence."""
        ends = (self.ratio.low, self.ratio.high)
        fewer = ends[1] is not None and ends[1] < 1
        more = ends[0] is not None and ends[0] > 1
        word = "fewer" if fewer else "more" if more else "about as many"
        return (
            f"{self.scheme} flips {word} decisions: {self.after:.3%} of them, {self.before:.3%} "
            f"before (ratio {self.ratio:.2f}, n = {self.before.n:,}); unrounded, the two models "
            f"differ in {self.changed.value:.3%}."
        )

    def _phrases(self) -> Iterator[str]:
        yield f"{self.scheme} flips {self.before:.2%} → {self.after:.2%}"
        yield f"ratio {self.ratio:.2f}"


def rounding_flips(
    before: Checkpoint,
    after: Checkpoint,
    scheme: str,
    corpus: Corpus,
    options: AuditOptions | None = None,
    *,
    progress: bool = False,
) -> RoundingFlips:
    """Round two models of one tokenizer and count flips, with intervals over the documents.

    Four audits, of the rounded copies too. Raises UnembedError as ``audit`` and ``quantized`` do.
    """
    options = AuditOptions(top_k=2) if options is None else options
    steps = Steps(4, alike=True)
    top1, nll, document = [], [], np.zeros(0, dtype=np.int64)
    for which, one in (("before", before), ("after", after)):
        for rounded in (False, True):
            model = quantized(one, scheme).model if rounded else one.model
            with steps(f"{which}, {scheme if rounded else 'unrounded'}"):
                found = audit(model, corpus, options, progress=progress)
            top1.append(found.column("top1"))
            nll.append(found.column("nll").astype(np.float64))
            document = found.column("doc")
    numbers, documents = cluster(document)

    def total(values: np.ndarray) -> np.ndarray:
        weights = np.asarray(values, np.float64)
        return np.bincount(numbers, weights=weights, minlength=documents)

    every = total(np.ones(len(numbers)))
    flips = total(top1[0] != top1[1]), total(top1[2] != top1[3])
    rows = (
        (flips[0], every),
        (flips[1], every),
        (flips[1], flips[0]),
        (total(top1[0] != top1[2]), every),
        (total(nll[1] - nll[0]), every),
        (total(nll[3] - nll[2]), every),
    )
    up, down = (np.stack(side) for side in zip(*rows, strict=True))
    return RoundingFlips(scheme, *ratio_estimates(up, down))
