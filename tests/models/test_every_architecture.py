"""Every causal type of the installed transformers, audited against its plain full logits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import reference.sweep
from made_up.corpora import TEXTS
from made_up.shrunken import CAUSAL_TYPES, shrunken
from unembed import Audit, Corpus, audit, load
from unembed.decisions import AuditOptions
from unembed.errors import UnembedError
from unembed.head.head import Head, final_hidden
from unembed.models.depths import Depths

CONTEXT = 24
BUDGET = 2e-5
"""Largest difference, in units of one plus the position's largest logit."""

FEWEST_MEASURED = 170

REFUSED = {
    "cpmant": "is not causal",  # its prompt is read in both directions
    "emu3": "Unrecognized configuration class",  # transformers loads no text model of it alone
    "mllama": "Unrecognized configuration class",
    "prophetnet": "predicts several tokens ahead",
    "reformer": "LSH attention draws its hashes anew",
    "xlnet": "is not causal",  # it permutes the order of its positions
}
"""What the refusal of a type says."""


@dataclass
class Outcomes:
    measured: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    not_built: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def built(name: str, *how: Any) -> Any:
    """A small model that runs on text alone."""
    model = shrunken(name, *how)
    with torch.no_grad():
        model(input_ids=torch.arange(10, 30)[None], use_cache=False)
    return model


@torch.no_grad()
def difference(got: Audit, model: Any, corpus: Corpus) -> float:
    """The largest one from full logits of a window at a time; an exchanged top1 is its margin."""
    worst, seen = 0.0, 0
    columns = {name: got.column(name) for name in ("top1", "margin", "nll", "entropy")}
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, CONTEXT):
            window = ids[start : start + CONTEXT + 1]
            logits = model(input_ids=window[None, :-1], use_cache=False).logits[0].double()
            logits[:, len(corpus.tokenizer) :] = -torch.inf
            want = reference.sweep.decisions(logits, window[1:], 2)
            span = slice(seen, seen + len(logits))
            size = 1 + logits[:, : len(corpus.tokenizer)].abs().max(1).values.numpy()
            for name in ("margin", "nll", "entropy"):
                off = np.abs(columns[name][span] - np.array(want[name])) / size
                worst = max(worst, float(off.max()))
            top1 = np.array([ids[0] for ids in want["topk_ids"]])
            exchanged = columns["top1"][span] != top1
            worst = max(worst, *(np.array(want["margin"]) / size * exchanged).tolist())
            seen = span.stop
    assert seen == len(got)
    return worst


@pytest.mark.slow
def test_every_causal_type_is_measured_or_refused(
    checkpoint: Callable[..., Path], small_tokenizer: Any
) -> None:
    found = Outcomes()
    for name in CAUSAL_TYPES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = built(name)
            except Exception as error:
                found.not_built[name] = one_line(error)
                continue
            try:
                opened = load(checkpoint(model, small_tokenizer), device="cpu")
                corpus = Corpus.from_texts(TEXTS, opened.tokenizer)
                options = AuditOptions(top_k=2, context=CONTEXT, batch_tokens=64)
                off = difference(audit(opened.model, corpus, options), model, corpus)
            except UnembedError as error:
                found.refused[name] = one_line(error)
            except Exception as error:
                found.wrong[name] = one_line(error)
            else:
                if off <= BUDGET:
                    found.measured[name] = off
                else:
                    found.wrong[name] = f"off by {off:.2g}"
    print(f"{len(found.measured)} measured of {len(CAUSAL_TYPES)}, the worst last:")
    print(sorted(found.measured.items(), key=itemgetter(1)))
    for what in ("refused", "not_built", "wrong"):
        for name, reason in getattr(found, what).items():
            print(f"{what} {name}: {reason}")
    assert not found.wrong
    unknown = {n: why for n, why in found.refused.items() if REFUSED.get(n, "\n") not in why}
    assert not unknown
    assert len(found.measured) >= FEWEST_MEASURED


DEPTHS_REFUSED = {
    "blt": "positions still meet between the last block and the head",
    "cpmant": "is not causal",
    "hrm_text": "modules run as 1, 2, 1, 2, 1, 2 ...: not each once and in order",
    "inkling2_text": "the head's input depends on more than the last block's output",
    "prophetnet": "predicts several tokens ahead",
    "reformer": "has no state a token",
    "xlm": "block 1's output is not what block 2 reads",
    "xlnet": "is not causal",
}
"""What the refusal of a type's head or blocks says."""


@torch.no_grad()
def depths_are_wrong(model: Any, depths: Depths) -> str | None:
    """What differs from transformers: a state but its last, or the head's input of a model that
    has the first blocks alone."""
    ids = torch.arange(3, 33).view(2, 15)
    want = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[:-1]
    _final, states = depths.block_list.read(model, ids, range(depths.blocks + 1))
    for number, state in enumerate(want):
        if not any(torch.equal(states[at], state) for at in (number, number + 1)):
            return f"state {number}"
    replayed = [depths.block_list.replay(model, ids, states[at]) for at in sorted(states)]
    outer, _, leaf = depths.path.rpartition(".")
    blocks = list(model.get_submodule(depths.path))
    for at in range(depths.blocks, 0, -1):
        setattr(model.get_submodule(outer), leaf, torch.nn.ModuleList(blocks[:at]))
        if not torch.equal(final_hidden(model, ids), replayed[at]):
            return f"tail at depth {at}"
    return None


@pytest.mark.slow
def test_every_causal_type_has_depths_or_is_refused() -> None:
    proved: list[str] = []
    refused: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for name in CAUSAL_TYPES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = built(name)
            except Exception:
                continue
            try:
                Head.of(model)
                depths = Depths.of(model)
                off = depths_are_wrong(model, depths)
            except UnembedError as error:
                refused[name] = one_line(error)
            except Exception as error:
                wrong[name] = one_line(error)
            else:
                if off is None:
                    proved.append(name)
                    print(f"{name}: {depths.tail}")
                else:
                    wrong[name] = off
    print(f"{len(proved)} proved of {len(CAUSAL_TYPES)}")
    for name, reason in {**refused, **wrong}.items():
        print(f"refused or wrong {name}: {reason}")
    assert not wrong
    assert not {n: why for n, why in refused.items() if DEPTHS_REFUSED.get(n, "\n") not in why}
    assert len(proved) >= FEWEST_MEASURED


MOST_OF_A_WRAPPER = 60_000_000
"""Parameters: not every tower's sizes are among those that are shrunken."""


@pytest.mark.slow
def test_every_wrapper_has_the_depths_of_its_text_part() -> None:
    """Models for images and text, of those that can be built and read on text alone."""
    proved, refused = 0, {}
    for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = built(name, tf.AutoModelForImageTextToText, MOST_OF_A_WRAPPER)
            except Exception:
                continue
            try:
                Head.of(model)
                depths = Depths.of(model)
            except UnembedError as error:
                refused[name] = one_line(error)
                continue
            assert not [part for part in ("vision", "image", "audio") if part in depths.path]
            assert (off := depths_are_wrong(model, depths)) is None, f"{name}: {off}"
            proved += 1
    print(f"{proved} proved of {len(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)}, {refused}")
    assert set(refused) <= {"paligemma"}  # its prompt is read in both directions
    assert proved >= 45
