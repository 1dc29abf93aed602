"""The truth: train on each source, and measure how far every target's held-out loss falls."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from kept import kept
from safetensors.torch import save
from tasks import Task, positions
from torch import Tensor

from unembed import Checkpoint, Corpus, Head, head_loss
from unembed.demo import HeadTraining, samples_loss, trained_head
from unembed.head import Precision, final_hidden
from unembed.runs import digest_of, progress_bar, write_whole
from unembed.selection import score
from unembed.signatures import Samples
from unembed.training import Lora, apply_scope, plain_model

MODEL_POSITIONS = 500
"""Of a target's text, that a trained model is scored on."""


@dataclass(frozen=True)
class LoraTraining:
    """Low-rank adapters on every linear layer but the head, by AdamW at a fixed rate."""

    rank: int = 8
    steps: int = 40
    rows: int = 8
    rate: float = 3e-4

    @property
    def words(self) -> str:
        """In a clause, for reports."""
        return (
            f"adapters of rank {self.rank} (LoRA), {self.steps} steps of AdamW, {self.rows} "
            f"passages each, rate {self.rate:g}"
        )


@dataclass(frozen=True)
class Outcome:
    """What training on one source came to: each target's loss after it, and a model's scores.

    ``seconds`` is what training took, ``mib`` the size of what was trained; ``scored`` what each
    score by the trained model took, reading included.
    """

    losses: list[float]
    scores: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    size: int = 0
    scored: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """Gains of one seed, in nats a token, and the outcomes that they are from."""

    gains: Float[np.ndarray, "sources targets"]
    outcomes: list[Outcome]


Training = HeadTraining | LoraTraining


def measure(
    checkpoint: Checkpoint,
    tasks: list[Task],
    head: Head,
    training: Training,
    seed: int,
    names: tuple[str, ...],
    folder: Path | None,
    shown: bool,
) -> Truth:
    """Train on each source of one seed; results that lie in ``folder`` already are read.

    ``names`` are scores to take of each trained model on each target's training text. Adapters are
    kept beside the results.
    """
    before = np.array([samples_loss(task.heldout, head) for task in tasks])
    key = [
        digest_of(checkpoint.model),
        *key_of(tasks),
        asdict(training),
        seed,
        names,
    ]
    what = "head" if isinstance(training, HeadTraining) else "lora"

    def one(source: int) -> dict[str, Any]:
        if isinstance(training, HeadTraining):
            return asdict(_by_head(tasks, source, head, replace(training, seed=seed), names))
        adapter = place_of(source, ".safetensors")
        return asdict(_by_lora(checkpoint, tasks, source, head, training, seed, names, adapter))

    def place_of(source: int, ending: str) -> Path | None:
        return folder and folder / f"seed-{seed}" / what / f"{tasks[source].name}{ending}"

    outcomes = []
    with progress_bar(f"{what}, seed {seed}", "source", len(tasks), shown) as bar:
        for i in range(len(tasks)):
            outcomes.append(Outcome(**kept(place_of(i, ".json"), key, partial(one, i))))
            bar.update()
    gains = np.stack([before - np.array(one.losses) for one in outcomes])
    return Truth(gains, outcomes)


def key_of(tasks: list[Task]) -> list[object]:
    """Plain values that tell the text of some tasks from any other."""
    return [
        [
            t.name,
            t.text.train.digest,
            t.text.heldout.digest,
            len(t.train.targets),
            len(t.heldout.targets),
        ]
        for t in tasks
    ]


def _by_head(
    tasks: list[Task], source: int, head: Head, training: HeadTraining, names: tuple[str, ...]
) -> Outcome:
    start = time.perf_counter()
    moved = trained_head(tasks[source].train, head, training)
    seconds = time.perf_counter() - start
    losses = [samples_loss(task.heldout, moved) for task in tasks]
    read = [(few(task.train), 0.0) for task in tasks] if names else []
    scores, scored = _scores(read, moved, names)
    return Outcome(losses, scores, seconds, moved.weight.numel() * 4, scored)


def _by_lora(
    checkpoint: Checkpoint,
    tasks: list[Task],
    source: int,
    head: Head,
    training: LoraTraining,
    seed: int,
    names: tuple[str, ...],
    adapter: Path | None,
) -> Outcome:
    start = time.perf_counter()
    scoped = adapted(checkpoint, [tasks[source].text.train], head, training, seed)
    seconds = time.perf_counter() - start
    moved = {n: p.detach() for n, p in scoped.model.named_parameters() if p.requires_grad}
    if adapter is not None:
        adapter.parent.mkdir(parents=True, exist_ok=True)
        write_whole(adapter, save(moved))
    after = Checkpoint(checkpoint.name, plain_model(scoped).eval(), checkpoint.tokenizer)
    losses = heldout_losses(after, tasks, head)
    read = []
    for task in tasks if names else []:
        at = time.perf_counter()
        most = min(MODEL_POSITIONS, len(task.train.targets))
        own, _ = positions(after, task.text.train, task.name, most)
        read.append((own, time.perf_counter() - at))
    scores, scored = _scores(read, head, names)
    return Outcome(losses, scores, seconds, 4 * sum(p.numel() for p in moved.values()), scored)


def adapted(
    checkpoint: Checkpoint,
    texts: Sequence[Corpus],
    head: Head,
    training: LoraTraining,
    seed: int,
) -> Any:
    """What ``apply_scope`` makes of a copy of the model, trained on the rows of all texts together.

    Without texts they are as they begin: their second matrix is 0.
    """
    model = copy.deepcopy(checkpoint.model)
    scoped = apply_scope(model, "lora", lora=Lora(training.rank, 2 * training.rank, seed=seed))
    moving = [p for p in scoped.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, training.rate, weight_decay=0.0)
    precision = Precision.probe(head.weight)
    for ids, targets, real in _row_batches(texts, training, seed) if texts else ():
        optimizer.zero_grad()
        hidden = final_hidden(scoped.model, ids)[real]
        loss = head_loss(hidden, head, targets, precision=precision).nll.mean()
        loss.backward()
        optimizer.step()
    return scoped


def heldout_losses(after: Checkpoint, tasks: list[Task], head: Head) -> list[float]:
    """The loss of each task's held-out text when a trained body reads it."""
    losses = []
    for task in tasks:
        heldout, _ = positions(after, task.text.heldout, task.name, len(task.heldout.targets))
        losses.append(samples_loss(heldout, head))
    return losses


def few(samples: Samples, most: int = MODEL_POSITIONS) -> Samples:
    """Some positions of a text, evenly from all over it."""
    step = max(1, len(samples.targets) // most)
    index = np.arange(0, len(samples.targets), step)[:most]
    rows = torch.from_numpy(index)
    return replace(
        samples,
        hidden=samples.hidden[rows],
        targets=samples.targets[rows],
        document=samples.document[index],
        sequence=samples.sequence[index],
    )


def _scores(
    read: list[tuple[Samples, float]], head: Head, names: tuple[str, ...]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Each score of every target's text as the trained model reads it, and its seconds."""
    scores: dict[str, list[float]] = {}
    scored: dict[str, float] = {}
    for name in names:
        start = time.perf_counter()
        scores[name] = [score(name, own, own, head) for own, _ in read]
        scored[name] = time.perf_counter() - start + sum(seconds for _, seconds in read)
    return scores, scored


def every_row(text: Corpus, rows: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All rows of a text once, in their order, so many at a time; as ``_padded`` gives them."""
    cut = _rows(text)
    return (_padded(cut[start : start + rows]) for start in range(0, len(cut), rows))


def _row_batches(
    texts: Sequence[Corpus], training: LoraTraining, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The rows of each step, as ``_padded`` gives them."""
    drawn = torch.Generator().manual_seed(seed)
    rows = [row for text in texts for row in _rows(text)]
    size = min(training.rows, len(rows))
    order: list[int] = []
    for _ in range(training.steps):
        if len(order) < size:
            order = torch.randperm(len(rows), generator=drawn).tolist()
        some, order = [rows[i] for i in order[:size]], order[size:]
        yield _padded(some)


Row = tuple[Int[np.ndarray, " tokens"], Bool[np.ndarray, " tokens"]]
"""The tokens of a row, and whether the prediction of each counts: completions' alone, if marked."""


def _rows(text: Corpus) -> list[Row]:
    counted = np.ones(len(text.ids), dtype=bool) if text.counted is None else text.counted
    ends = zip(text.starts[:-1], text.starts[1:], strict=True)
    return [(text.ids[a:b], counted[a:b]) for a, b in ends]


def _padded(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows padded on the right, the tokens that they predict and count, and where."""
    width = max(len(row) for row, _ in rows) - 1
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row, counted) in enumerate(rows):
        ids[i, : len(row) - 1] = torch.from_numpy(np.array(row[:-1], dtype=np.int64))
        real[i, : len(row) - 1] = torch.from_numpy(np.array(counted[1:]))
    targets = np.concatenate([row[1:][counted[1:]] for row, counted in rows]).astype(np.int64)
    return ids, torch.from_numpy(targets), real
