"""How good is the model of molecules? Held-out loss beside n-grams, and what it writes.

    python examples/molecules/evaluate.py runs/molecules/model -o evaluation.json

The loss is of molecules of MOSES' two held-out splits, beside a unigram and an interpolated trigram
(Kneser-Ney) of all molecules trained on, over the same tokens: the molecule's and ``</s>``. Then
the model writes molecules, one token after another from its own distribution: the share that RDKit
can read (valid), of these the share of different ones (unique), and of these the share that MOSES'
train split does not hold (novel), by RDKit's canonical SMILES. Intervals are 95 %, over molecules.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from data import Split, molecules
from jaxtyping import Float, Int
from rdkit import Chem, rdBase
from tokenizer import ASK, CONTEXT
from torch.nn.functional import log_softmax
from train import Rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from unembed import Estimate
from unembed.runs import write_whole

SPLITS: tuple[Split, ...] = ("test", "scaffolds")
Z = 1.96


def ratio(above: Float[np.ndarray, " units"], below: Float[np.ndarray, " units"]) -> Estimate:
    """``sum(above) / sum(below)`` with an interval over the units, by the delta method."""
    value = float(above.sum() / below.sum())
    residual = above - value * below
    error = math.sqrt(len(above) * residual.var(ddof=1)) / float(below.sum())
    return Estimate(value, value - Z * error, value + Z * error, n=len(above))


def share(hits: int, count: int) -> Estimate:
    """A share with Wilson's interval."""
    found = hits / count
    middle = (found + Z**2 / (2 * count)) / (1 + Z**2 / count)
    reach = math.sqrt(found * (1 - found) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count) * Z
    return Estimate(found, middle - reach, middle + reach, n=count)


@dataclass(frozen=True)
class Trigrams:
    """An interpolated Kneser-Ney model of rows of tokens, with one discount for each order.

    ``P(c | ab) = max(n(abc) - d, 0) / n(ab) + d kinds(ab) / n(ab) P(c | b)``; the orders below
    count how many different tokens an n-gram follows, not how often it occurs. Every order is a
    sorted array of n-grams, each one number whose lowest digit is the last token, and counts.
    """

    vocab: int
    tables: tuple[tuple[Int[np.ndarray, " grams"], Float[np.ndarray, " grams"]], ...]
    unigrams: Float[np.ndarray, " vocab"]

    @staticmethod
    def of(rows: Rows, vocab: int) -> Trigrams:
        """Count the rows; each begins with ``<s>`` twice and ends with ``</s>``."""
        top = np.unique(codes(rows, vocab)[0], return_counts=True)
        # Lower orders count distinct left contexts.
        middle = np.unique(top[0] % vocab**2, return_counts=True)
        base = np.bincount(middle[0] % vocab, minlength=vocab) + 0.5
        tables = tuple((grams, counts.astype(float)) for grams, counts in (middle, top))
        return Trigrams(vocab, tables, base / base.sum())

    def nats(self, rows: Rows) -> Float[np.ndarray, " tokens"]:
        """The loss of every token of some rows, ``</s>`` included, in their order."""
        wanted, _ = codes(rows, self.vocab)
        found = self.unigrams[wanted % self.vocab]
        for order, (grams, counts) in enumerate(self.tables, 2):
            found = self._level(grams, counts, wanted % self.vocab**order, found)
        return -np.log(found)

    def _level(
        self,
        grams: Int[np.ndarray, " grams"],
        counts: Float[np.ndarray, " grams"],
        wanted: Int[np.ndarray, " tokens"],
        lower: Float[np.ndarray, " tokens"],
    ) -> Float[np.ndarray, " tokens"]:
        once, twice = float((counts == 1).sum()), float((counts == 2).sum())
        discount = once / (once + 2 * twice) if once else 0.5
        contexts, where = np.unique(grams // self.vocab, return_inverse=True)
        kinds, totals = np.bincount(where), np.bincount(where, weights=counts)
        total = _lookup(contexts, totals, wanted // self.vocab)
        kind = _lookup(contexts, kinds, wanted // self.vocab)
        own = np.maximum(_lookup(grams, counts, wanted) - discount, 0)
        some = np.maximum(total, 1)
        return np.where(total > 0, (own + discount * kind * lower) / some, lower)


def codes(rows: Rows, vocab: int) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " tokens"]]:
    """Each token with the two before it as one number, and the number of its row."""
    lengths = np.diff(rows.starts) + 3
    starts = np.cumsum([0, *lengths[:-1]])
    whole = np.full(lengths.sum(), rows.begin, dtype=np.int64)
    inside = np.ones(len(whole), dtype=bool)
    ends = starts + lengths - 1
    inside[starts] = inside[starts + 1] = inside[ends] = False
    whole[inside], whole[ends] = rows.ids, rows.end
    grams = whole[:-2] * vocab**2 + whole[1:-1] * vocab + whole[2:]
    first = np.repeat(starts, lengths)[2:]
    kept = np.arange(2, len(whole)) - first >= 2
    return grams[kept], np.repeat(np.arange(len(lengths)), lengths)[2:][kept]


def _lookup(
    keys: Int[np.ndarray, " keys"],
    values: Float[np.ndarray, " keys"],
    wanted: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0.0)


@torch.no_grad()
def nats_of(model: torch.nn.Module, rows: Rows) -> Float[np.ndarray, " rows"]:
    """The loss of every whole row under the model."""
    found = np.empty(len(rows))
    order = np.argsort(np.diff(rows.starts), kind="stable")
    for some in np.array_split(order, math.ceil(len(rows) / 256)):
        batch = rows.batch(some)
        said = log_softmax(model(input_ids=batch[:, :-1]).logits, -1)
        targets = batch[:, 1:]
        each = said.gather(2, targets[..., None])[..., 0]
        found[some] = -(each * (targets != rows.pad)).sum(1).double().numpy()
    return found


def write_molecules(
    model: torch.nn.Module, tokenizer: object, count: int, seed: int, size: int = 1_000
) -> list[str]:
    """So many strings, each token drawn from the model's own distribution."""
    torch.manual_seed(seed)
    found: list[str] = []
    while len(found) < count:
        rows = min(size, count - len(found))
        begin = torch.full((rows, 1), tokenizer.bos_token_id)
        options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": CONTEXT - 1}
        ids = model.generate(begin, attention_mask=torch.ones_like(begin), **options)
        found += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return found


def judged(written: list[str], known: set[str]) -> dict[str, Estimate]:
    """Shares of valid, unique and novel molecules; a question behind a molecule is cut off."""
    alone = [one.split(ASK, 1)[0] for one in written]
    with rdBase.BlockLogs():
        mols = [Chem.MolFromSmiles(one) if one else None for one in alone]
    valid = [Chem.MolToSmiles(mol) for mol in mols if mol is not None]
    different = set(valid)
    return {
        "valid": share(len(valid), len(written)),
        "unique": share(len(different), len(valid)),
        "novel": share(len(different - known), len(different)),
        "asked": share(sum(ASK in one for one in written), len(written)),
    }


def main() -> None:
    """Measure, print, and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=str(Path(__file__).parent / "model"))
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--heldout", type=int, default=20_000, help="molecules of each split")
    parser.add_argument("--write", type=int, default=10_000, help="molecules to write")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    known = molecules("train")
    trigrams = Trigrams.of(train := Rows.of(known, tokenizer), len(tokenizer))
    often = np.bincount(train.ids, minlength=len(tokenizer)) + 1.0
    often[train.end] += len(train)
    unigrams = -np.log(often / often.sum())
    found: dict[str, dict[str, Estimate]] = {}
    for split in SPLITS:
        rows = Rows.of(molecules(split)[:: max(1, 176_000 // given.heldout)], tokenizer)
        grams, row = codes(rows, len(tokenizer))
        tokens = np.bincount(row).astype(float)
        per_row = {
            "unigram": np.bincount(row, unigrams[grams % len(tokenizer)]),
            "trigram": np.bincount(row, trigrams.nats(rows)),
            "model": nats_of(model, rows),
        }
        found[f"{split}, nats a token"] = {k: ratio(v, tokens) for k, v in per_row.items()}
        ones = np.ones(len(rows))
        found[f"{split}, nats a molecule"] = {k: ratio(v, ones) for k, v in per_row.items()}
        found[f"{split}, nats a token"]["model less trigram"] = ratio(
            per_row["model"] - per_row["trigram"], tokens
        )
    written = write_molecules(model, tokenizer, given.write, given.seed)
    found["written"] = judged(written, set(known))
    for name, some in found.items():
        form = ".2%" if name == "written" else ".3f"
        print(f"{name}: " + ", ".join(f"{k} {v:{form}}" for k, v in some.items()))
    print("for instance: " + ", ".join(written[:5]))
    if given.out:
        plain = {name: {k: asdict(v) for k, v in some.items()} for name, some in found.items()}
        write_whole(given.out, (json.dumps(plain, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
