"""Which source helps a target most? Scores had before training, against measured transfer.

    python examples/transfer/run.py -o transfer            # 16 domains, 3 seeds, head and LoRA
    python examples/transfer/run.py -o quick --quick       # in less than a minute
    python examples/transfer/run.py -o more --tasks 24 --wikitext wiki.train.raw
    python examples/transfer/run.py -o network --network --subsets 24
    unembed report transfer/head -o transfer.html

The domains are real text of this machine: documentation, code, headers, logs, listings, tables,
licences, translations. For each target the other domains are the candidate sources. The truth is
measured: a copy of the bundled model is trained on each source (its head alone, then LoRA), and
each target's loss falls, or rises, on held-out text. Scores read only text to train on. A third
setting asks for properties of generated strings: there activations and errors are the same for all
tasks, and only their coupling differs. With --network scores come from signatures of the whole
network too, and from adapters; with --subsets random halves of the sources are trained on as
mixtures. A killed run goes on when it is called again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import strings
from cost import measured
from domains import sources
from jaxtyping import Float
from kept import kept
from methods import CURVE, POSITIONS, Found, from_models, from_samples, from_signatures
from passages import Domain, TooLittleError, split
from subsets import Foreseen, correlations, foreseen, measure_subsets
from tables import as_json, lines, lines_of_subsets
from tasks import Sizes, Task, read

from network import ADAPTERS, NetworkSetup, adapter_steps, from_adapters, from_network
from training import LoraTraining, Training, key_of
from training import measure as train
from unembed import Checkpoint, Estimate, Head, load
from unembed.demo import HeadTraining, bundled_model
from unembed.runs import digest_of, progress_bar, write_whole
from unembed.selection import MODEL_BASELINES, Scores, Transfer, judge_transfer

QUICK = ("manual", "docstrings", "character names", "number series", "C headers", "French")
SETTINGS = ("head", "lora", "strings")
OF_SUBSETS = tuple(
    (method, than)
    for method in ("step full, sequence", "gradient full, sequence", "gradient full, token",
                   "joint profile, sequence", "joint full, token", "joint blocks, token")
    for than in ("joint", "gradient", "step", "unigram_loss", "gains of each")
)  # fmt: skip
"""Of how well they foresaw mixtures, these are compared in pairs."""
FEW = ("unigram", "unigram_loss", "random")
"""Baselines that need no hidden states."""


SIZES, LORA = Sizes(), LoraTraining()
HEAD = HeadTraining(60, 512, 5.0, "gd")
"""By plain descent, with which every source helps itself; AdamW moves rows of rare tokens as far as
those of frequent ones, and some sources hurt themselves."""
WORDS = HeadTraining(200, 1 << 20, 2.0, "gd")
"""Of three rows, by all strings at once."""


@dataclass(frozen=True)
class Setup:
    """What is measured; ``domains`` empty takes the first ``tasks`` that have enough text."""

    tasks: int = 16
    seeds: int = 3
    m: int = 4_096
    settings: tuple[str, ...] = SETTINGS
    domains: tuple[str, ...] = ()
    sizes: Sizes = SIZES
    head: HeadTraining = HEAD
    lora: LoraTraining = LORA
    curve: tuple[int, ...] = CURVE
    others: bool = True
    baselines: tuple[str, ...] = tuple(POSITIONS)
    models: tuple[str, ...] = MODEL_BASELINES
    network: NetworkSetup | None = None
    subsets: int = 0
    strings: int = 1_200
    word_training: HeadTraining = WORDS
    wikitext: Path | None = None

    @staticmethod
    def quick() -> Setup:
        """Few domains, one seed, little text, no baseline that is slow."""
        return Setup(
            seeds=1,
            domains=QUICK,
            sizes=Sizes(1_200, 600),
            head=replace(HEAD, steps=30),
            lora=replace(LORA, steps=10),
            curve=(200,),
            baselines=("cka", "unigram", "unigram_loss", "random"),
            models=("loss",),
            strings=300,
        )


def gathered(checkpoint: Checkpoint, setup: Setup) -> tuple[list[Domain], dict[str, str]]:
    """The domains to measure, and why others were left out."""
    found: list[Domain] = []
    reasons: dict[str, str] = {}
    every = sources(setup.wikitext)
    strange = set(setup.domains) - {name for name, _ in every}
    if strange:
        raise SystemExit(f"no domain is named {min(strange)!r}: {', '.join(n for n, _ in every)}")
    for name, documents in every:
        if name in setup.domains if setup.domains else len(found) < setup.tasks:
            one = Domain(name, tuple(documents()))
            try:
                for seed in range(setup.seeds):
                    split(one, checkpoint.tokenizer, seed, setup.sizes.train, setup.sizes.heldout)
            except TooLittleError as reason:
                reasons[name] = str(reason)
            else:
                found.append(one)
    return found, reasons


@dataclass(frozen=True)
class Seed:
    """What one seed measured in one setting."""

    gains: Float[np.ndarray, "sources targets"]
    found: list[Found]
    foreseen: list[Foreseen] = field(default_factory=list)
    apart: list[tuple[str, Estimate]] = field(default_factory=list)


def on_domains(
    checkpoint: Checkpoint, domains: list[Domain], setup: Setup, folder: Path | None, shown: bool
) -> dict[str, list[Seed]]:
    """Every seed of the settings that train on domains."""
    trainings: dict[str, Training] = {"head": setup.head, "lora": setup.lora}
    asked = {how: trainings[how] for how in setup.settings if how in trainings}
    seeds: dict[str, list[Seed]] = {how: [] for how in asked}
    for seed in range(setup.seeds) if asked else ():
        with measured() as reading:
            tasks, head = read(checkpoint, domains, seed, setup.sizes, shown)
        # Half of what was read is held out and no part of any score.
        share = setup.sizes.train / (setup.sizes.train + setup.sizes.heldout)

        def scored(
            tasks: list[Task] = tasks,
            head: Head = head,
            seconds: float = reading.seconds * share,
            seed: int = seed,
        ) -> list[dict[str, Any]]:
            found = from_signatures(
                checkpoint, tasks, setup.m, setup.curve, shown, others=setup.others
            )
            found += from_samples(tasks, head, seconds, setup.baselines, seed, shown)
            return as_plain(found)

        asked_for = (setup.m, setup.curve, setup.others, setup.baselines)
        key = [digest_of(checkpoint.model), key_of(tasks), *asked_for]
        place = folder and folder / f"seed-{seed}" / "scores.json"
        found = as_found(kept(place, key, scored))
        if setup.network:
            found += of_network(checkpoint, tasks, head, setup, seed, folder, shown)
        for how, training in asked.items():
            truth = train(checkpoint, tasks, head, training, seed, setup.models, folder, shown)
            more = from_models(truth, setup.models, how)
            if how == "lora" and setup.network and folder:
                more += of_steps(checkpoint, tasks, head, setup.lora, folder / f"seed-{seed}")
            if how == "lora" and "head" in seeds:
                more.append(Found("gains of the head", seeds["head"][seed].gains))
            predicted: list[Foreseen] = []
            apart: list[tuple[str, Estimate]] = []
            if setup.subsets and seed == 0:
                given = (tasks, head, training, setup.subsets, seed, folder, shown)
                subsets = measure_subsets(checkpoint, *given)
                every = (*found, *more, Found("gains of each", truth.gains))
                predicted = [foreseen(subsets, one) for one in every]
                by_name = {one.method: correlations(subsets, one) for one in every}
                apart = [
                    (f"{a} less {b}", (by_name[a] - by_name[b]).estimate(1))
                    for a, b in OF_SUBSETS
                    if {a, b} <= by_name.keys()
                ]
            seeds[how].append(Seed(truth.gains, [*found, *more], predicted, apart))
    return seeds


def of_network(
    checkpoint: Checkpoint,
    tasks: list[Task],
    head: Head,
    setup: Setup,
    seed: int,
    folder: Path | None,
    shown: bool,
) -> list[Found]:
    """Scores by every part of the network's signatures, of the model and of its adapters."""
    network = setup.network or NetworkSetup()
    found = []
    for unit in network.units:
        own = replace(network, units=(unit,))
        key = [digest_of(checkpoint.model), key_of(tasks), asdict(own)]
        place = folder and folder / f"seed-{seed}" / f"network-{unit}.json"
        made = partial(from_network, checkpoint, tasks, own, shown)
        found += as_found(kept(place, key, lambda made=made: as_plain(made())))
    for state in network.adapters:
        own = replace(network, adapters=(state,))
        key = [digest_of(checkpoint.model), key_of(tasks), asdict(own), asdict(setup.lora)]
        place = folder and folder / f"seed-{seed}" / f"adapters-{state}.json"
        made = partial(from_adapters, checkpoint, tasks, head, setup.lora, own, seed, shown)
        found += as_found(kept(place, key, lambda made=made: as_plain(made())))
    return found


def of_steps(
    checkpoint: Checkpoint, tasks: list[Task], head: Head, lora: LoraTraining, folder: Path
) -> list[Found]:
    """Scores by the steps of adapters that were trained in this folder of a seed."""
    made = partial(adapter_steps, checkpoint, tasks, head, lora, folder / "lora")
    key = [digest_of(checkpoint.model), key_of(tasks), asdict(lora)]
    return as_found(kept(folder / "adapter-steps.json", key, lambda: as_plain(made())))


def as_plain(found: list[Found]) -> list[dict[str, Any]]:
    """Scores as plain values."""
    return [{**vars(one), "values": one.values.tolist()} for one in found]


def as_found(plain: list[dict[str, Any]]) -> list[Found]:
    """Scores from what ``as_plain`` gave."""
    return [Found(**{**one, "values": np.array(one["values"], float)}) for one in plain]


def transfer_of(name: str, tasks: tuple[str, ...], training: str, seeds: list[Seed]) -> Transfer:
    """All seeds in one record, with the best choice, another seed's, and chance beside."""
    gains = np.stack([seed.gains for seed in seeds])
    scores = [
        Scores(
            one.method,
            np.stack([seed.found[i].values for seed in seeds]),
            _mean([seed.found[i].seconds for seed in seeds]),
            _most([seed.found[i].mib for seed in seeds]),
            one.bytes,
        )
        for i, one in enumerate(seeds[0].found)
    ]
    if len(seeds) > 1:
        scores.append(Scores("gains of another seed", np.roll(gains, 1, 0)))
    scores += [Scores("oracle", gains), Scores("chance", np.zeros_like(gains))]
    return Transfer(name, tasks, training, gains, tuple(scores))


def first_tasks(transfer: Transfer, count: int) -> Transfer:
    """The first so many tasks, as if no others had been measured."""
    some = slice(count)
    return replace(
        transfer,
        name=f"the first {count} of {transfer.name}",
        tasks=transfer.tasks[some],
        gains=transfer.gains[:, some, some],
        scores=tuple(replace(x, values=x.values[:, some, some]) for x in transfer.scores),
    )


def on_strings(checkpoint: Checkpoint, setup: Setup, shown: bool) -> Transfer:
    """Every seed of the tasks on generated strings."""
    seeds = []
    names: tuple[str, ...] = ()
    with progress_bar("strings", "seed", setup.seeds, shown) as bar:
        for seed in range(setup.seeds):
            names, *rest = strings.measure(checkpoint, setup.strings, setup.word_training, seed)
            seeds.append(Seed(*rest))
            bar.update()
    training = f"the rows of three answer words alone, {setup.word_training.words}"
    return transfer_of("properties of strings", names, training, seeds)


@dataclass(frozen=True)
class Measured:
    """A setting's gains and scores, and how these foresaw training on halves of the sources."""

    transfer: Transfer
    foreseen: list[Foreseen] = field(default_factory=list)
    apart: list[tuple[str, Estimate]] = field(default_factory=list)


def run(setup: Setup, out: Path | None, command: str = "", shown: bool = False) -> list[Measured]:
    """Every setting; with ``out`` each is kept in a run folder there."""
    checkpoint = load(bundled_model())
    domains: list[Domain] = []
    if set(setup.settings) - {"strings"}:
        domains, reasons = gathered(checkpoint, setup)
        for name, reason in reasons.items():
            print(f"left out {name}: {reason}", file=sys.stderr)
    words = {"head": f"the head alone, {setup.head.words}", "lora": setup.lora.words}
    work = out and out / "work"
    measured_seeds = on_domains(checkpoint, domains, setup, work, shown)
    names = tuple(one.name for one in domains)
    found = {
        how: Measured(
            transfer_of(f"{len(names)} domains, {how}", names, words[how], seeds),
            seeds[0].foreseen,
            seeds[0].apart,
        )
        for how, seeds in measured_seeds.items()
    }
    if "strings" in setup.settings:
        found["strings"] = Measured(on_strings(checkpoint, setup, shown))
    for how, one in found.items() if out else ():
        judge_transfer(one.transfer, out=out / how, command=command)
        if one.foreseen:
            plain = [asdict(each) for each in one.foreseen]
            write_whole(out / f"{how}-subsets.json", json.dumps(plain, indent=1).encode())
    return list(found.values())


def main() -> None:
    """Measure, print the tables, and keep the runs."""
    plain = Setup()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, help="a folder for the runs and their parts")
    parser.add_argument("--quick", action="store_true", help="few domains, one seed")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="which of these to measure")
    parser.add_argument("--domains", default="", help="their names, with commas between")
    parser.add_argument("--wikitext", type=Path, help="a WikiText file, for one domain more")
    parser.add_argument("--tasks", type=int, default=plain.tasks)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--m", type=int, default=plain.m)
    parser.add_argument("--network", action="store_true", help="score by the whole network too")
    parser.add_argument("--network-m", type=int, default=NetworkSetup().m)
    parser.add_argument("--adapters", default=",".join(ADAPTERS), help="which of these to sketch")
    parser.add_argument("--subsets", type=int, default=0, help="random halves to train on")
    parser.add_argument("--scores", choices=("all", "few"), default="all", help="beside the truth")
    parser.add_argument("--judge", type=int, help="judge the first so many domains alone too")
    parser.add_argument("--steps", type=int, help="of the head's training")
    parser.add_argument("--rate", type=float, help="of the head's training")
    parser.add_argument("--optimizer", choices=("adamw", "gd"))
    parser.add_argument("--lora-steps", type=int)
    parser.add_argument("--lora-rate", type=float)
    given = parser.parse_args()
    setup = Setup.quick() if given.quick else plain
    head = {n: v for n in ("steps", "rate", "optimizer") if (v := getattr(given, n)) is not None}
    lora = {"steps": given.lora_steps, "rate": given.lora_rate}
    states = tuple(x for x in ADAPTERS if x in given.adapters.split(","))
    network = NetworkSetup(given.network_m, adapters=states)
    if given.scores == "few":
        setup = replace(setup, curve=(), others=False, baselines=FEW, models=("loss",))
    setup = replace(
        setup,
        tasks=given.tasks,
        network=network if given.network else setup.network,
        subsets=given.subsets or setup.subsets,
        seeds=given.seeds or setup.seeds,
        m=given.m,
        settings=tuple(given.settings.split(",")),
        domains=tuple(filter(None, given.domains.split(","))) or setup.domains,
        wikitext=given.wikitext,
        head=replace(setup.head, **head),
        lora=replace(setup.lora, **{n: v for n, v in lora.items() if v is not None}),
    )
    strange = set(setup.settings) - set(SETTINGS)
    if strange:
        parser.error(f"setting {min(strange)!r} is not one of {', '.join(SETTINGS)}")
    for one in run(setup, given.out, shlex.join(["python", *sys.argv]), shown=True):
        whole = one.transfer
        parts = [whole] if given.judge is None else [whole, first_tasks(whole, given.judge)]
        if given.json:
            halves = [asdict(each) for each in one.foreseen]
            for part in parts:
                print(json.dumps(as_json(part) | {"subsets": halves}), flush=True)
            continue
        for line in chain(*map(lines, parts), lines_of_subsets(one.foreseen, one.apart)):
            print(line, flush=True)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _most(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


if __name__ == "__main__":
    main()
