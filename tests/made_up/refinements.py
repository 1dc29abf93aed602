"""Made-up refinements, whose comparisons are those of drawn logits."""

from __future__ import annotations

from made_up.comparisons import make_comparison
from unembed.training.run.summary import RefinementSummary, Step, WatchedStep

STEPS = 500


def make_summary() -> RefinementSummary:
    log = tuple(
        Step(
            step,
            loss=3.0 + 1 / step,
            cross_entropy=2.0 + 1 / step,
            penalty=0.4 - step / 10_000,
            gradient_norm=0.5 + (step % 3),
            gradient_ratio=0.1 * step if step % 10 == 0 else None,
            gradient_cosine=-0.25 if step % 10 == 0 else None,
        )
        for step in range(1, STEPS + 1)
    )
    start = WatchedStep(0, 777, 2.4, 0.42, 0.9, 0.019, 0.0, 0.0, 1.0)
    watched = (
        start,
        *(
            WatchedStep(step, 777, 2.5, 0.41, 0.9 + step / 1e4, 0.02, 0.031, 0.0123, 0.97)
            for step in range(50, STEPS + 1, 50)
        ),
    )
    return RefinementSummary(
        objective="fisher",
        weight=0.6,
        scope="head",
        seed=0,
        moves="the head moves (lm_head): 12 of 34 parameters",
        n_moving=12,
        n_total=34,
        steps=STEPS,
        stopped=None,
        clipped=0.0,
        gradient_ratio=0.125,
        gradient_cosine=-0.25,
        log=log,
        watched=watched,
        heldout=make_comparison().summary,
        training=make_comparison(noise=0.9, n=900).summary,
    )
