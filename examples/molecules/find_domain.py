"""Which domain is a molecule of, and of which domains is a blend made? By signatures alone.

    python examples/molecules/find_domain.py runs/molecules/domains -o found.json

An index holds a signature of each of the nine domains: of 200 positions (some 25 molecules, from
which a domain joins it in milliseconds, without training), or of more. Asked are held-out molecules
of each domain, one at a time, or several together; chance is one in nine. Beside it stands the
cosine of token counts, which needs no model. Then blends of held-out molecules with known shares
are taken apart by ``mix``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import neighbours  # noqa: F401
import numpy as np
import pandas as pd
from evaluate import share
from jaxtyping import Float
from kinds import TESTS, file_of

from unembed import Checkpoint, Corpus, Estimate, Index, Signature, SketchOptions, load, mix, sketch
from unembed.runs import progress_bar, write_whole
from unembed.selection import Mixture, route
from unembed.stats import mean_estimate

MODEL = Path(__file__).parent / "model"
BLENDS: tuple[dict[str, float], ...] = (
    {"sulfonyl": 0.5, "small": 0.3, "nitrogen rich": 0.2},
    {"basic amine": 0.7, "aromatic sulfur": 0.3},
    {"halogens": 0.4, "oxygen rich": 0.4, "four rings": 0.2},
)


@dataclass(frozen=True)
class Setup:
    """Positions that a signature is of, molecules asked together, and questions of a domain."""

    learned: tuple[int, ...] = (200, 3_000)
    asked: tuple[int, ...] = (1, 8, 25)
    questions: int = 20
    m: int = 4_096
    blend: int = 900
    seed: int = 0


@dataclass(frozen=True)
class Routed:
    """How often the right domain came first: by the index, and by token counts."""

    learned: int
    asked: int
    index: Estimate
    counts: Estimate


def side(folder: Path, which: str, seed: int) -> dict[str, list[str]]:
    """Each domain's molecules of a side, in an order drawn by the seed."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in TESTS:
        texts = pd.read_parquet(file_of(folder, which, name))["text"]
        found[name] = [texts[i] for i in rng.permutation(len(texts))]
    return found


def signature_of(
    checkpoint: Checkpoint, texts: Sequence[str], name: str, setup: Setup, most: int | None
) -> Signature:
    """The signature of some molecules, each a document."""
    corpus = Corpus.from_texts(texts, checkpoint.tokenizer, names=list(texts))
    return sketch(checkpoint, corpus, SketchOptions(m=setup.m, max_positions=most), task=name)


def counted(checkpoint: Checkpoint, texts: Sequence[str]) -> Float[np.ndarray, " vocab"]:
    """How often each token is in some molecules, at unit length."""
    ids = np.concatenate(checkpoint.tokenizer(list(texts))["input_ids"])
    counts = np.bincount(ids, minlength=len(checkpoint.tokenizer)).astype(float)
    # What every molecule begins and ends with says nothing.
    counts[[checkpoint.tokenizer.bos_token_id, checkpoint.tokenizer.eos_token_id]] = 0
    return counts / np.linalg.norm(counts)


def routed(
    checkpoint: Checkpoint,
    learned: dict[str, list[str]],
    held_out: dict[str, list[str]],
    setup: Setup,
) -> list[Routed]:
    """Every size of what is learned and of what is asked."""
    found = []
    total = len(setup.learned) * len(setup.asked) * len(TESTS)
    with progress_bar("route", "domain", total, True) as bar, TemporaryDirectory() as folder:
        for positions in setup.learned:
            # A molecule has about eight positions: of twice as many molecules so many are there.
            some = {name: texts[: positions // 4] for name, texts in learned.items()}
            signatures = [
                signature_of(checkpoint, texts, name, setup, positions)
                for name, texts in some.items()
            ]
            index = Index.create(Path(folder, str(positions)), signatures[0].identity)
            index.add(signatures)
            counts = {name: counted(checkpoint, texts) for name, texts in some.items()}
            for asked in setup.asked:
                right: tuple[list[Estimate], list[Estimate]] = ([], [])
                for name, texts in held_out.items():
                    hits = np.zeros(2, dtype=int)
                    questions = min(setup.questions, len(texts) // asked)
                    for question in range(questions):
                        own = texts[question * asked : (question + 1) * asked]
                        corpus = Corpus.from_texts(own, checkpoint.tokenizer, names=own)
                        best = route(index, checkpoint, [corpus], top=1).matches[0].entry.name
                        mine = counted(checkpoint, own)
                        hits += (best == name, max(counts, key=lambda c: counts[c] @ mine) == name)
                    for into, each in zip(right, hits.tolist(), strict=True):
                        into.append(share(each, questions))
                    bar.update()
                found.append(Routed(positions, asked, *map(mean_estimate, right)))
    return found


def taken_apart(
    checkpoint: Checkpoint,
    learned: dict[str, list[str]],
    held_out: dict[str, list[str]],
    setup: Setup,
) -> list[tuple[dict[str, float], Mixture]]:
    """The shares that ``mix`` finds in blends, from all nine domains as sources."""
    most = max(setup.learned)
    sources = [
        signature_of(checkpoint, texts[: most // 4], name, setup, most)
        for name, texts in learned.items()
    ]
    found = []
    for shares in BLENDS:
        parts = [held_out[name][: round(part * setup.blend)] for name, part in shares.items()]
        texts = [text for part in parts for text in part]
        # Shares are of positions, of which the domains have unlike numbers in a molecule.
        sizes = [sum(map(len, checkpoint.tokenizer(part)["input_ids"])) for part in parts]
        true = {name: size / sum(sizes) for name, size in zip(shares, sizes, strict=True)}
        target = signature_of(checkpoint, texts, "the blend", setup, None)
        found.append((true, mix(target, sources)))
    return found


def main() -> None:
    """Measure, print, and write it down."""
    plain = Setup()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("domains", type=Path, help="the folder that kinds.py wrote")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--questions", type=int, default=plain.questions, help="of each domain")
    parser.add_argument("--seed", type=int, default=plain.seed)
    given = parser.parse_args()
    setup = Setup(questions=given.questions, seed=given.seed)
    checkpoint = load(given.model)
    learned, held_out = (side(given.domains, which, setup.seed) for which in ("train", "heldout"))
    lines = routed(checkpoint, learned, held_out, setup)
    print(f"right domain of nine, {setup.questions} questions of each at most; chance {1 / 9:.1%}")
    for one in lines:
        print(
            f"signatures of {one.learned:,} positions, {one.asked} molecules asked: "
            f"index {one.index:.1%}, token counts {one.counts:.1%}"
        )
    blends = taken_apart(checkpoint, learned, held_out, setup)
    for true, mixture in blends:
        said = ", ".join(
            f"{one.name} {one.weight:.2f} (true {true.get(one.name, 0.0):.2f})"
            for one in mixture.shares
            if one.name in true or (one.weight.value or 0.0) >= 0.02
        )
        print(f"blend: {said}; residual {mixture.residual:.2f}")
    if given.out:
        plain_lines = [asdict(one) for one in lines]
        plain_blends = [{"true": true, "found": one.to_json()} for true, one in blends]
        whole = json.dumps({"routing": plain_lines, "blends": plain_blends}, indent=1) + "\n"
        write_whole(given.out, whole.encode())


if __name__ == "__main__":
    main()
