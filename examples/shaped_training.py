"""Does a penalty while a model is trained from random weights leave a better one to refine?

    python examples/shaped_training.py runs/shaping --jobs 2
    python examples/shaped_training.py runs/quick --quick              # tiny: minutes in all
    python examples/shaped_training.py runs/shaping --only train --seeds 0 --arms cross-entropy

Small models, the bundled one's tokenizer and text: cross-entropy alone, and with each of three
penalties from the first step or from half-way, whose gradient at the head's input is a tenth of the
cross-entropy's. Of one seed all see the same weights, rows and learning rates; an arm from half-way
is the cross-entropy arm until then, and goes on from its weights there. Each is then refined as it
stands, with and without a penalty, on documents that none has seen, and everything is measured on
held-out ones. A killed run goes on with the same command and ends in the same figures; two of the
same command share the work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from shaped_measures import LONGER, TRAINED, Sample, frontier, measure, tables
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from unembed import Corpus, audit, head_loss, load
from unembed.decisions import AuditOptions
from unembed.demo import bundled_model, documents
from unembed.head import final_hidden
from unembed.training import HeadHook, Objective, Schedule, mean_loss

# Each model is refined at three doses, and goes on with as many plain steps, or five times those.
REFINEMENTS: dict[str, dict[str, Any]] = {
    "control": {},
    "fisher-0.1": {"penalty": "fisher", "gradient_share": 0.1},
    "fisher-0.3": {"penalty": "fisher", "gradient_share": 0.3},
    "fisher-1.0": {"penalty": "fisher", "gradient_share": 1.0},
    LONGER: {},
}
PENALTIES = ("margin", "fisher", "cosine")
FROM_START = Schedule()
SAMPLE = Sample(128)
STARTS = {"start": FROM_START, "half": Schedule(after=0.5)}
CHARACTERS = 4_000


@dataclass(frozen=True)
class Arm:
    """A penalty, or none, and when it begins."""

    penalty: str = "none"
    start: str = "start"

    @property
    def name(self) -> str:
        """Of its folder, and on the command line."""
        if self.penalty == "none":
            return "cross-entropy"
        return f"{self.penalty}-{self.start}"


# In the order in which they are trained: those from half-way find their first half done.
ARMS = (Arm(), *(Arm(penalty, start) for start in STARTS for penalty in PENALTIES))


@dataclass(frozen=True)
class Training:
    """Steps of AdamW: a linear warm-up, and a cosine down to the share ``floor`` of the rate."""

    penalty: str = "none"
    schedule: Schedule = FROM_START
    gradient_share: float = 0.1
    steps: int = 2_400
    batch: int = 4
    learning_rate: float = 3e-3
    warmup: float = 0.05
    floor: float = 0.05
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    watched: int = 6

    @property
    def half(self) -> int:
        """The steps of the first half."""
        return self.steps // 2

    def share(self, step: int) -> float:
        """Of the cross-entropy's gradient, what the penalty's is at this step."""
        if self.penalty == "none":
            return 0.0
        return self.gradient_share * self.schedule.factor(step, self.steps)

    def rate(self, step: int) -> float:
        """The learning rate of this step."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        along = (step - warm) / max(1, self.steps - warm)
        share = self.floor + (1 - self.floor) * (1 + math.cos(math.pi * along)) / 2
        return self.learning_rate * share


@dataclass(frozen=True)
class Size:
    """How large everything is; of one folder it never changes."""

    width: int = 96
    heads: int = 3
    layers: int = 4
    context: int = 128
    training: Training = Training()
    refinement: Training = Training(
        steps=200, learning_rate=1e-4, floor=0.0, weight_decay=0.01, clip=10.0, watched=1
    )
    sample: Sample = SAMPLE
    watched_positions: int = 4_000


QUICK = Size(
    width=32,
    heads=2,
    layers=2,
    context=32,
    training=replace(Size.training, steps=60, watched=3),
    refinement=replace(Size.refinement, steps=10),
    sample=Sample(32, 1_000, 500, 200),
    watched_positions=500,
)


# ---------------------------------------------------------------------------------------------
# Text


def by_hash(split: str) -> list[str]:
    """The texts of a split, in an order that mixes topics, docstrings and source."""
    found = documents(split)  # type: ignore[arg-type]
    key = {one.text: hashlib.sha256(one.name.encode()).digest() for one in found}
    return sorted(key, key=key.__getitem__)


def rows_of(size: Size, out: Path) -> tuple[Tensor, Tensor]:
    """Rows to train and to refine on, of different documents: context + 1 tokens each."""
    file = out / "rows.npz"
    if not file.exists():
        tokenizer = load(bundled_model()).tokenizer
        texts, parts = iter(by_hash("train")), []
        for training in (size.training, size.refinement):
            wanted = training.steps * training.batch * (size.context + 1)
            ids: list[int] = []
            while len(ids) < wanted:
                ids += [tokenizer.bos_token_id, *tokenizer.encode(next(texts), verbose=False)]
            parts.append(np.array(ids[:wanted], np.uint16).reshape(-1, size.context + 1))
        with atomically(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, training=parts[0], refinement=parts[1])
    with np.load(file) as held:
        training, refinement = (
            torch.from_numpy(held[name].astype(np.int64)) for name in ("training", "refinement")
        )
    return training, refinement


def heldout_text() -> Corpus:
    """The beginnings of documents of subjects that no arm has seen."""
    texts = [text[:CHARACTERS] for text in by_hash("heldout")]
    return Corpus.from_texts(texts, load(bundled_model()).tokenizer)


# ---------------------------------------------------------------------------------------------
# One training


def new_model(size: Size, seed: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings and random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=load(bundled_model()).model.config.vocab_size,
        hidden_size=size.width,
        intermediate_size=size.width * 7 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.context,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    rows: Tensor,
    training: Training,
    folder: Path,
    glance: Callable[[PreTrainedModel], dict[str, float]],
    half: Path | None = None,
    every: float = 60.0,
) -> None:
    """Train in place, or go on from the folder's checkpoint; ``folder/model`` is written last.

    A cross-entropy arm keeps its state after the first half in ``half``, where an arm whose penalty
    begins there goes on. ``glance`` measures the model a few times along the way.
    """
    if (folder / "model").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "checkpoint.pt"
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        weight_decay=training.weight_decay,
        betas=(0.9, 0.95),
    )
    state: dict[str, Any] = {"step": 0, "log": [], "curve": []}
    begun = [file] if half is None or training.schedule != STARTS["half"] else [file, half]
    for found in filter(Path.exists, begun):
        state = torch.load(found, weights_only=True)
        model.load_state_dict(state.pop("model"))
        optimizer.load_state_dict(state.pop("optimizer"))
        break

    def keep(where: Path) -> None:
        kept = state | {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        with atomically(where) as temporary:
            torch.save(kept, temporary)

    order = np.random.default_rng(training.seed).permutation(len(rows))
    watched = {round(i * training.steps / training.watched) for i in range(1, training.watched)}
    hook, saved = HeadHook.of(model), time.monotonic()
    precision = hook.head.precision(torch.float32)
    objective = Objective(training.penalty)
    model.train()
    while (step := state["step"]) < training.steps:
        chosen = order[np.arange(step * training.batch, (step + 1) * training.batch) % len(rows)]
        share = training.share(step)
        counts = objective if share else Objective("none")
        hidden = final_hidden(model, rows[chosen, :-1]).flatten(0, 1)
        found = head_loss(
            hidden,
            hook.current_head(model),
            rows[chosen, 1:].flatten(),
            k=counts.k_needed,
            cosines=counts.cosines_needed,
            precision=precision,
        )
        loss = mean_loss(found, counts, gradient_share=share, at=hidden)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        state["step"] = step + 1
        state["log"].append((float(loss.cross_entropy), float(loss.penalty), loss.weight))
        at = step + 1
        if at in watched:
            state["curve"].append({"step": at, **glance(model)})
            print(f"{folder} {state['curve'][-1]}", flush=True)
        if half is not None and training.penalty == "none" and at == training.half:
            keep(half)
        if at in watched or time.monotonic() - saved > every:
            keep(file)
            saved = time.monotonic()
    log = np.array(state["log"])
    np.savez(folder / "log.npz", cross_entropy=log[:, 0], penalty=log[:, 1], weight=log[:, 2])
    (folder / "curve.json").write_text(json.dumps(state["curve"]))
    with atomically(folder / "model") as temporary:
        model.save_pretrained(temporary)
        load(bundled_model()).tokenizer.save_pretrained(temporary)
    file.unlink(missing_ok=True)


def glancer(size: Size, text: Corpus) -> Callable[[PreTrainedModel], dict[str, float]]:
    """What is measured along the way: held-out loss and margins."""
    options = AuditOptions(
        top_k=0, context=size.context, max_positions=size.watched_positions, spread=True
    )

    def glance(model: PreTrainedModel) -> dict[str, float]:
        found = audit(model, text, options)
        columns = {"loss": "nll", "margin": "margin", "scale-free": "relative_distance"}
        values = {name: found.column(column) for name, column in columns.items()}
        return {
            "loss": float(values["loss"].mean()),
            "margin": float(np.median(values["margin"])),
            "scale-free": float(np.median(values["scale-free"])),
        }

    return glance


# ---------------------------------------------------------------------------------------------
# All of them


@dataclass(frozen=True)
class atomically:
    """A name to write under, which becomes ``where`` if nothing goes wrong."""

    where: Path

    def __enter__(self) -> Path:
        return self.where.with_name(f"{self.where.name}.{os.getpid()}.part")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.__enter__().rename(self.where)


def work(
    out: Path, size: Size, arm: Arm, seed: int, only: str | None, refinements: Sequence[str]
) -> None:
    """Everything of one arm and seed that is not done, unless another process is at it."""
    torch.set_num_threads(1)
    folder = out / f"seed-{seed}" / arm.name
    if only == "measure" and not (folder / TRAINED / "model").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    with lock:
        text, trained = heldout_text(), folder / TRAINED
        training, refinement = rows_of(size, out)
        glance = glancer(size, text)
        how = replace(size.training, penalty=arm.penalty, schedule=STARTS[arm.start], seed=seed)
        half = folder.parent / "half.pt"
        if only != "measure":
            train(new_model(size, seed), training, how, trained, glance, half)
        if only == "train":
            return
        measure(trained, text, size.sample, whole=True)
        for name in refinements:
            steps = size.refinement.steps * (5 if name == LONGER else 1)
            how = replace(size.refinement, seed=seed, steps=steps, **REFINEMENTS[name])
            model = LlamaForCausalLM.from_pretrained(trained / "model")
            train(model, refinement, how, folder / name, glance)
            measure(folder / name, text, size.sample, whole=False)


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--refinements", nargs="+", choices=list(REFINEMENTS), default=list(REFINEMENTS)
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, of a core each")
    parser.add_argument("--only", choices=("train", "measure", "tables"))
    parser.add_argument("--quick", action="store_true", help="everything tiny")
    given = parser.parse_args()
    size = QUICK if given.quick else Size()
    given.out.mkdir(parents=True, exist_ok=True)
    same_size(given.out / "size.json", size)
    rows_of(size, given.out)
    arms = [arm for arm in ARMS if given.arms is None or arm.name in given.arms]
    given_to_each = (given.only, given.refinements)
    todo = [(given.out, size, arm, seed, *given_to_each) for seed in given.seeds for arm in arms]
    os.environ["OMP_NUM_THREADS"] = "1"
    if given.only == "tables":
        todo = []
    if given.jobs == 1:
        for one in todo:
            work(*one)
    else:
        with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
            for done in [pool.submit(work, *one) for one in todo]:
                done.result()
    if given.only in (None, "tables"):
        said = given.out, [arm.name for arm in ARMS], tuple(REFINEMENTS)
        print(tables(*said))
        (given.out / "frontier.json").write_text(json.dumps(frontier(*said), indent=1))


def same_size(file: Path, size: Size) -> None:
    """Write it down, or refuse to go on with another."""
    said = json.dumps(asdict(size), indent=2)
    if not file.exists():
        file.write_text(said)
    elif file.read_text() != said:
        raise SystemExit(f"{file} is of a run of another size: give another folder")


if __name__ == "__main__":
    main()
