"""The text of a refinement: its two parts, and the windows that it is trained on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.stats.forms import FEW_DOCUMENTS
from unembed.text.corpus import Corpus
from unembed.text.windows import Windows
from unembed.training.recipe.weighting import Positions
from unembed.training.run.head_hook import IGNORED
from unembed.training.run.penalty_term import POSITION_WEIGHTS


@dataclass(frozen=True)
class Split:
    """A corpus in two, by documents; ``held`` marks those that training never sees."""

    training: Corpus
    heldout: Corpus
    held: Bool[np.ndarray, " documents"]

    def placed(self, positions: Positions) -> Positions:
        """Positions of the whole corpus as positions of its training part.

        Raises UnembedError where none of them is in it.
        """
        doc, pos = positions.keys >> 32, positions.keys & 0xFFFFFFFF
        inside = doc < len(self.held)
        inside[inside] = ~self.held[doc[inside]]
        if not inside.any():
            raise UnembedError(
                f"none of the {len(doc):,} positions listed is in the training documents: list "
                "positions of other documents"
            )
        number = np.cumsum(~self.held) - 1
        return Positions((number[doc[inside]] << 32) | pos[inside], positions.weights[inside])


def split(corpus: Corpus, share: float) -> Split:
    """Hold out about ``share`` of the documents, at least one, chosen by a hash of number and name.

    The same for every recipe, so that runs compare. Raises UnembedError for a single document.
    """
    n = len(corpus.names)
    if n < 2:
        raise UnembedError(
            "the text is a single document, and none could be held out: give --document to say "
            "where one begins, or more text"
        )
    marks = [hashlib.sha256(f"{i} {name}".encode()).digest() for i, name in enumerate(corpus.names)]
    order = sorted(range(n), key=marks.__getitem__)
    held = np.zeros(n, dtype=bool)
    held[order[: held_out(n, share)]] = True
    return Split(
        corpus.subset(~held, f"all but {int(held.sum())} held-out documents"),
        corpus.subset(held, f"{int(held.sum())} held-out documents"),
        held,
    )


def held_out(documents: int, share: float) -> int:
    """How many of so many documents ``split`` holds out."""
    return min(documents - 1, math.ceil(share * documents))


def little_text(documents: int, share: float) -> str | None:
    """What to mind, in a line, where fewer than ``FEW_DOCUMENTS`` are held out; None else."""
    held = held_out(documents, share)
    if held < 1 or held >= FEW_DOCUMENTS:
        return None
    found = f"{documents - held} of {documents} documents are trained on and {held} held out: "
    if held < 2:
        found += "no figure will have an interval, which takes 2 held-out documents"
    else:
        found += f"every interval will be rough, which fewer than {FEW_DOCUMENTS} documents make it"
    share_helps = documents >= 2 * FEW_DOCUMENTS
    return f"{found}; give more text" + (", or a larger --heldout" if share_helps else "")


@dataclass(frozen=True)
class Examples(ShortRepr, Dataset[dict[str, Tensor]]):
    """Token windows as the Trainer takes them.

    Tokens that do not count (``Corpus.counted``) are inputs and never labels.
    """

    windows: Windows
    positions: Positions | None

    @staticmethod
    def of(corpus: Corpus, context: int, positions: Positions | None = None) -> Examples:
        """The windows of a corpus; ``positions`` are the only ones that a penalty counts."""
        return Examples(Windows.of(corpus, context), positions)

    def __len__(self) -> int:
        return len(self.windows.length)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        windows, corpus = self.windows, self.windows.corpus
        start, length = int(windows.start[i]), int(windows.length[i])
        ids = np.asarray(corpus.ids[start : start + length + 1], dtype=np.int64)
        labels = ids.copy()
        labels[0] = IGNORED
        counted = windows.counted(i)
        labels[1:][~counted] = IGNORED
        if windows.prefixed[i]:
            ids = np.concatenate([[corpus.bos], ids])
            labels = np.concatenate([[IGNORED], labels])
        found = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        if self.positions is not None:
            doc = np.full(length, windows.doc[i], dtype=np.int64)
            weights = self.positions.of(doc, windows.pos[i] + np.arange(length))
            weights[torch.from_numpy(~counted)] = 0.0
            # The first may be a BOS, the last predicts nothing.
            before = torch.zeros(len(ids) - 1 - length)
            found[POSITION_WEIGHTS] = torch.cat([before, weights, torch.zeros(1)])
        return found

    def collated(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pad a batch on the right; what is padded is neither attended to nor a target."""
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": 0, "labels": IGNORED, POSITION_WEIGHTS: 0.0}
        batch = {
            name: torch.stack([_padded(row[name], width, fill[name]) for row in rows])
            for name in rows[0]
        }
        sizes = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(width) < sizes[:, None]).long()
        return batch

    def target_counts(self, vocab: int) -> Int[Tensor, " vocab"]:
        """How often each token is predicted."""
        corpus, counts = self.windows.corpus, np.zeros(vocab, dtype=np.int64)
        spans = zip(self.windows.start, self.windows.length, strict=True)
        for i, (start, length) in enumerate(spans):
            targets = corpus.ids[int(start) + 1 : int(start) + int(length) + 1]
            counts += np.bincount(targets[self.windows.counted(i)], minlength=vocab)
        return torch.from_numpy(counts)


def _padded(row: Float[Tensor, " n"] | Int[Tensor, " n"], width: int, fill: int | float) -> Tensor:
    return torch.nn.functional.pad(row, (0, width - len(row)), value=fill)
