"""Alignments of head Fishers from every pair of samples: the exact answer, for small problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.signatures.alignment.grams import residual, residual_sums
from unembed.signatures.alignment.jackknife import QUANTITIES, BlockPairs, cosines, standard_errors
from unembed.signatures.alignment.kernels import Errors, run_starts, run_sums, strips
from unembed.signatures.alignment.kinds import KINDS
from unembed.signatures.alignment.records import Alignments, Pairs, TaskFacts
from unembed.signatures.samples import Pool, Samples
from unembed.signatures.signature import Fisher, Unit

MOST_POSITIONS = 20_000
MOST_BLOCKS = 32
MOST_CELLS = 2048
MOST_KERNELS = 1 << 22


def exact_alignments(
    tasks: Sequence[Samples],
    head: Head,
    *,
    fisher: Fisher = "empirical",
    unit: Unit = "token",
    debias: bool = True,
    top_k: int | None = None,
    block: int = 2048,
) -> Alignments:
    """Every alignment of several tasks from their Gram matrices, in float64 (theory §7, §8).

    With ``g = e ⊗ a`` and ``F = mean g gᵀ``, naively::

        joint = cos(F_i, F_j); activation = cos(M_i, M_j); error = cos(Γ_i, Γ_j)
        first_moment = cos(mean g_i, mean g_j); proxy = activation * error; coupling = joint / proxy

    through ``⟨F_i, F_j⟩ = mean (a·a')² (e·e')²``. ``fisher="true"`` draws labels from the model,
    ``⟨F(p), F(q)⟩`` in place of ``(e·e')²``; its mean gradient is 0, so there is no first moment.
    ``unit="sequence"`` sums g over a sequence before squaring it, while ``M`` and ``Γ`` are the
    means of ``Σ a aᵀ`` and ``Σ e eᵀ`` over sequences, so coupling is joint over proxy and no more,
    and there is no residual.

    ``debias`` makes every mean a U-statistic of documents: pairs of samples of the same document
    are left out, everywhere, of norms as of products. What remains are pairs of independent
    documents, so that each mean is that of the population, and two tasks on the same samples have
    alignment 1. A squared norm that is not positive then gives NaN, and the task's status says
    why: "too few samples: ..." where no Fisher can be estimated, "ok, but ..." where only the mean
    gradient is lost in noise, as it is for most well-trained models. Without ``debias`` all pairs
    count, and the identities of theory §7 hold to rounding.

    ``sampling_se`` is a jackknife over up to 32 blocks of documents; ``low`` and ``high`` are
    1.96 of it to either side, with no transform (a debiased cosine may pass 1). ``top_k`` keeps so
    many entries of each error and its target's; low and high are then widened by the most that
    this can have moved the value (NaN where that is unbounded), which ``truncation_bound`` gives
    alone. ``block`` is the samples and tokens taken at once.

    Raises UnembedError for more than 20,000 positions in all, and for tasks that do not fit the
    head. Costs ``positions² (dim + vocab)`` multiplications.
    """
    measured = _measure(tasks, head, fisher, unit, debias, top_k, block)
    means = measured.cells.means
    norms = np.einsum("qtt->qt", means)
    values = cosines(means, norms, norms)
    errors = standard_errors(measured.cells, measured.pool.kin)
    floor, ceiling = _range(measured.cells, values)
    low, high = floor - 1.96 * errors, ceiling + 1.96 * errors
    low, high = (np.where(np.isfinite(x), x, np.nan) for x in (low, high))
    pairs: dict[str, Any] = {
        kind: Pairs(values[i], np.zeros_like(values[i]), errors[i], low[i], high[i])
        for i, kind in enumerate(KINDS)
    }
    if fisher == "true":
        pairs["first_moment"] = None
    return Alignments(
        tasks=_facts(tasks, measured, debias, fisher),
        **pairs,
        method="exact" if top_k is None else f"exact, top-{top_k} errors",
        unit=unit,
        fisher=fisher,
        debiased=debias,
    )


def truncation_bound(
    tasks: Sequence[Samples],
    head: Head,
    top_k: int,
    *,
    unit: Unit = "token",
    debias: bool = True,
    block: int = 2048,
) -> Float[np.ndarray, "tasks tasks"]:
    """The most that ``top_k`` can have moved each joint alignment; infinite where unbounded.

    With ``|e·e' - ē·ē'| ≤ b`` for each pair of positions (``TopkErrors.slack``), a sample's
    ``g·g'`` is off by at most ``B = Σ |a·a'| b``, its square by ``2 |ḡ·ḡ'| B + B²``, and the mean
    over pairs by the mean of that. The cosine then lies between the least product over the largest
    norms and the largest product over the least norms. NaN where the alignment is.
    Source: theory §8.
    """
    cells = _measure(tasks, head, "empirical", unit, debias, top_k, block).cells
    means = cells.means
    norms = np.einsum("qtt->qt", means)
    values = cosines(means, norms, norms)
    low, high = _range(cells, values)
    bound: np.ndarray = np.maximum(values[0] - low[0], high[0] - values[0])
    return bound


@dataclass(frozen=True)
class _Measured:
    """Sums over pairs, the mean ``‖g‖²`` of each task, and its residual."""

    pool: Pool
    cells: BlockPairs
    traces: Float[np.ndarray, " tasks"]
    residuals: list[float | None]


def _measure(
    tasks: Sequence[Samples],
    head: Head,
    fisher: Fisher,
    unit: Unit,
    debias: bool,
    top_k: int | None,
    block: int,
) -> _Measured:
    _check(tasks, fisher, unit, top_k, block)
    blocks = max(2, min(MOST_BLOCKS, MOST_CELLS // max(len(tasks), 1)))
    pool = Pool.of(tasks, head, blocks)
    n = len(pool.task)
    first = run_starts(pool.task, pool.sequence) if unit == "sequence" else np.arange(n)
    task, document = pool.task[first], pool.document[first]
    cell = task * blocks + pool.block[first]
    size, columns = len(tasks) * blocks, run_starts(cell)
    sums = np.zeros((len(QUANTITIES), size, size))
    slack = np.zeros_like(sums)
    pairs = np.zeros((size, size))
    traces, triples = np.zeros(len(tasks)), np.zeros((len(tasks), 6))
    block = max(1, min(block, MOST_KERNELS // n))
    errors = Errors.of(pool, head, fisher, top_k, block)
    for rows, kernels in strips(pool, errors, first, block):
        np.add.at(traces, task[rows], kernels.trace)
        values = kernels.values
        counted = np.ones(values.shape[1:])
        if debias:
            counted[document[rows, None] == document] = 0
            values *= counted
        own = run_starts(cell[rows])
        into = np.ix_(cell[rows][own], cell[columns])
        pairs[into] += run_sums(counted, own, columns)
        for i in range(len(QUANTITIES)):
            sums[i][into] += run_sums(values[i], own, columns)
            if kernels.slack is not None:
                slack[i][into] += run_sums(kernels.slack[i] * counted, own, columns)
        for t in np.unique(task[rows]):
            mine = np.flatnonzero(task == t)
            here = mine[(mine >= rows.start) & (mine < rows.stop)]
            x, y = (values[i][here[0] - rows.start :][: len(here), mine] for i in (1, 2))
            triples[t] += residual_sums(x, y, document[here], document[mine], debias)
    shape = (len(tasks), blocks, len(tasks), blocks)
    counts = np.bincount(cell, minlength=size).reshape(len(tasks), blocks)
    cells = BlockPairs(
        sums.reshape(-1, *shape),
        None if top_k is None else slack.reshape(-1, *shape),
        pairs.reshape(shape),
        counts,
    )
    residuals = [
        None
        if unit == "sequence"
        else residual(triples[t], np.unique(document[task == t], return_counts=True)[1], debias)
        for t in range(len(tasks))
    ]
    return _Measured(pool, cells, traces / counts.sum(1), residuals)


def _facts(
    tasks: Sequence[Samples], measured: _Measured, debias: bool, fisher: Fisher
) -> tuple[TaskFacts, ...]:
    joint, _, _, first = np.einsum("qtt->qt", measured.cells.means)
    facts = []
    for t, task in enumerate(tasks):
        n, documents = int(measured.cells.samples[t].sum()), len(np.unique(task.document))
        trace, status = measured.traces[t], "ok"
        if trace == 0:
            status = f"no gradient: every one of n = {n} samples has an error or a state of 0"
        elif debias and documents < 2:
            status = f"too few samples: n = {n} in one document, which has no independent pair"
        elif not joint[t] > 0:
            status = f"too few samples: n = {n}, participation ratio unknown (no gradients overlap)"
        elif fisher == "empirical" and not first[t] > 0:
            status = (
                f"ok, but the mean gradient is lost in noise: its squared norm is {first[t]:.3g} "
                f"debiased, n = {n}"
            )
        ratio = float(trace**2 / joint[t]) if joint[t] > 0 else None
        facts.append(TaskFacts(task.name, n, documents, ratio, measured.residuals[t], status))
    return tuple(facts)


def _range(
    cells: BlockPairs, values: Float[np.ndarray, "kinds tasks tasks"]
) -> tuple[Float[np.ndarray, "kinds tasks tasks"], Float[np.ndarray, "kinds tasks tasks"]]:
    """The least and the largest that each value can be, given the slack of what it is made of."""
    means, slack = cells.means, cells.mean_slack
    if slack is None:
        return values, values
    low, high = means - slack, means + slack
    low[:3] = np.maximum(low[:3], 0)
    least, most = (np.sqrt(np.maximum(np.einsum("qtt->qt", x), 0)) for x in (low, high))
    least, most = (x[:, :, None] * x[:, None, :] for x in (least, most))
    with np.errstate(divide="ignore", invalid="ignore"):
        floor, ceiling = np.empty_like(values), np.empty_like(values)
        for i, kind in enumerate((0, 1, 2, 5)):
            floor[kind] = low[i] / np.where(low[i] > 0, most[i], least[i])
            ceiling[kind] = high[i] / np.where(high[i] > 0, least[i], most[i])
        floor[3], ceiling[3] = floor[1] * floor[2], ceiling[1] * ceiling[2]
        floor[4], ceiling[4] = floor[0] / ceiling[3], ceiling[0] / floor[3]
    same = np.eye(values.shape[1], dtype=bool)
    # 0 / 0 is unknown, and a task is itself, whatever its errors.
    floor = np.where(same, values, np.where(np.isnan(floor), -np.inf, floor))
    ceiling = np.where(same, values, np.where(np.isnan(ceiling), np.inf, ceiling))
    return floor, ceiling


def _check(tasks: Sequence[Samples], fisher: str, unit: str, top_k: int | None, block: int) -> None:
    if fisher not in ("empirical", "true"):
        raise UnembedError(f"fisher {fisher!r} is not one of empirical, true")
    if unit not in ("token", "sequence"):
        raise UnembedError(f"unit {unit!r} is not one of token, sequence")
    if top_k is not None and fisher == "true":
        raise UnembedError(f"top_k = {top_k} is for observed errors: leave it out with fisher true")
    if block < 1:
        raise UnembedError(f"block is {block}: take one sample at once at least")
    n = sum(len(task.document) for task in tasks)
    if n > MOST_POSITIONS:
        raise UnembedError(
            f"{n:,} positions in all are more than the {MOST_POSITIONS:,} whose pairs can be held: "
            "sketch them, or give fewer"
        )
