"""Nine domains of molecules: does a score had before training tell which helps which?

    python examples/molecules/kinds.py -o runs/molecules/domains
    python examples/molecules/cross_domain.py runs/molecules/domains -o runs/molecules/cross
    unembed report runs/molecules/cross/lora

For each target the other eight domains are the candidate sources. The truth is measured: a copy of
the model is trained on each source (its head alone, then adapters), and each target's loss falls,
or rises, on molecules of scaffolds that no training text holds. Each seed holds out other scaffolds
and draws other molecules. Scores read only text to train on. What is trained, scored and judged,
and how, is ``examples/transfer``'s. A killed run goes on when it is called again.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import neighbours  # noqa: F401
import pandas as pd
from kept import kept
from kinds import TESTS, file_of, is_held_out
from methods import from_models, from_samples, from_signatures
from passages import Split
from published import STRINGS_RHO, Row, cross_domain, table
from run import Seed, as_found, as_plain, transfer_of
from tables import lines
from tasks import Sizes, Task, positions

from network import NetworkSetup, from_network
from training import LoraTraining, Training, key_of
from training import measure as train
from unembed import Checkpoint, Corpus, Head, load
from unembed.demo import HeadTraining
from unembed.runs import digest_of
from unembed.selection import Transfer, judge_transfer

MODEL = Path(__file__).parent / "model"
SIZES = Sizes(3_000, 1_500)
"""Positions; a molecule has about eight."""
HEAD = HeadTraining(60, 512, 5.0, "gd")
LORA = LoraTraining(steps=60, rows=32)
SPARE = 50
"""Positions more than asked for."""
BASELINES = ("cka", "unigram", "unigram_loss", "random")
MODELS = ("loss",)
PARTS = tuple(
    f"{kind} {part}, {unit}"
    for unit in ("token", "sequence")
    for kind, part in (
        ("joint", "full"),
        ("joint", "blocks"),
        ("joint", "profile"),
        ("gradient", "full"),
        ("gradient", "profile"),
    )
)
SHOWN = ("joint", "activation", "error", "gradient", "unigram_loss", *PARTS)
"""The scores whose correlation over pairs is set beside the published one."""


@dataclass(frozen=True)
class Setup:
    """What is measured."""

    seeds: int = 3
    m: int = 4_096
    sizes: Sizes = SIZES
    settings: tuple[str, ...] = ("head", "lora")
    head: HeadTraining = HEAD
    lora: LoraTraining = LORA
    network: NetworkSetup | None = None


def read(checkpoint: Checkpoint, folder: Path, sizes: Sizes, seed: int) -> tuple[list[Task], Head]:
    """The nine domains in one seed, each with as many positions as the others, and the head."""
    tasks: list[Task] = []
    for name in TESTS:
        sides = (pd.read_parquet(file_of(folder, side, name)) for side in ("train", "heldout"))
        every = pd.concat(sides).drop_duplicates("text")
        every = every.iloc[[*_order(every["text"], seed)]]
        held = every["scaffold"].map(lambda scaffold: is_held_out(scaffold, seed)).astype(bool)
        text = Split(
            enough(checkpoint, every["text"][~held], f"{name}, to train on", sizes.train),
            enough(checkpoint, every["text"][held], f"{name}, held out", sizes.heldout),
        )
        one, head = positions(checkpoint, text.train, name, sizes.train)
        other, _ = positions(checkpoint, text.heldout, name, sizes.heldout)
        tasks.append(Task(name, text, one, other))
    return tasks, head


def enough(checkpoint: Checkpoint, texts: Any, what: str, count: int) -> Corpus:
    """The first molecules that hold so many positions, each a document of its own."""
    texts = list(texts)
    # A row predicts every token but its first.
    sizes = [len(ids) - 1 for ids in checkpoint.tokenizer(texts)["input_ids"]]
    held = pd.Series(sizes).cumsum()
    if held.empty or held.iloc[-1] < count + SPARE:
        found = 0 if held.empty else held.iloc[-1]
        raise SystemExit(f"{what}: {found:,} positions, {count + SPARE:,} needed")
    some = texts[: int((held < count + SPARE).sum()) + 1]
    return Corpus.from_texts(some, checkpoint.tokenizer, names=some)


def _order(texts: Any, seed: int) -> list[int]:
    keys = [hashlib.sha256(f"{seed}/{one}".encode()).hexdigest() for one in texts]
    return sorted(range(len(keys)), key=keys.__getitem__)


def measure(
    checkpoint: Checkpoint,
    what: str,
    read_seed: Callable[[int], tuple[list[Task], Head]],
    setup: Setup,
    out: Path,
    shown: bool,
) -> dict[str, Transfer]:
    """Every setting: gains of all pairs of the tasks that each seed reads, and every score."""
    every: dict[str, Training] = {"head": setup.head, "lora": setup.lora}
    trainings = {how: every[how] for how in setup.settings}
    seeds: dict[str, list[Seed]] = {how: [] for how in trainings}
    names: tuple[str, ...] = ()
    for seed in range(setup.seeds):
        tasks, head = read_seed(seed)
        names = tuple(task.name for task in tasks)
        found = from_signatures(checkpoint, tasks, setup.m, (), shown, others=False)
        found += from_samples(tasks, head, 0.0, BASELINES, seed, shown)
        if setup.network is not None:
            key = [digest_of(checkpoint.model), key_of(tasks), asdict(setup.network)]
            place = out / "work" / f"seed-{seed}" / "network.json"
            made = partial(from_network, checkpoint, tasks, setup.network, shown)
            found += as_found(kept(place, key, lambda made=made: as_plain(made())))
        for how, training in trainings.items():
            work = out / "work"
            truth = train(checkpoint, tasks, head, training, seed, MODELS, work, shown)
            seeds[how].append(Seed(truth.gains, [*found, *from_models(truth, MODELS, how)]))
    words = {"head": f"the head alone, {setup.head.words}", "lora": setup.lora.words}
    return {
        how: transfer_of(f"{len(names)} {what}, {how}", names, words[how], some)
        for how, some in seeds.items()
    }


def beside_published(transfer: Transfer) -> list[Row]:
    """Spearman's correlation of each score with the gain over all pairs of domains."""
    rows = []
    for scores in transfer.scores:
        trained = scores.method.endswith(" trained")
        if scores.method in SHOWN or trained:
            found = cross_domain(transfer.gains, scores.values)
            published = STRINGS_RHO if scores.method == "joint" else None
            statistic = "Spearman, score against fall"
            note = f"p = {found.p:.4f}"
            rows.append(Row(published, transfer.name, scores.method, statistic, found.rho, note))
    return rows


def main() -> None:
    """Measure, print the tables, and keep the runs."""
    plain = Setup()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("domains", type=Path, help="the folder that kinds.py wrote")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--seeds", type=int, default=plain.seeds)
    parser.add_argument("--m", type=int, default=plain.m)
    parser.add_argument("--settings", default=",".join(plain.settings))
    parser.add_argument("--network", action="store_true", help="signatures of the network too")
    parser.add_argument("--lora-steps", type=int, default=plain.lora.steps)
    given = parser.parse_args()
    setup = replace(
        plain,
        seeds=given.seeds,
        m=given.m,
        settings=tuple(given.settings.split(",")),
        lora=replace(plain.lora, steps=given.lora_steps),
        network=NetworkSetup() if given.network else None,
    )
    rows: list[Row] = []
    checkpoint = load(given.model)
    what = "domains of molecules"
    reader = partial(read, checkpoint, given.domains, setup.sizes)
    for how, one in measure(checkpoint, what, reader, setup, given.out, shown=True).items():
        judge_transfer(one, out=given.out / how, command=shlex.join(["python", *sys.argv]))
        print("\n".join(lines(one)), flush=True)
        rows += beside_published(one)
    print("\n".join(["", *table(rows)]))


if __name__ == "__main__":
    main()
