"""Verbs leave the model that they are given in the mode that it was in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest

from unembed.decisions.audit.audit import audit
from unembed.decisions.comparison.compare import compare
from unembed.errors import UnembedError
from unembed.models.checkpoint import Checkpoint
from unembed.models.mode import restores_mode
from unembed.signatures.reading.run import sketch
from unembed.text.corpus import Corpus


def test_a_model_stays_in_its_mode(llama: Any, tokenizer: Any) -> None:
    corpus = Corpus.from_texts(["one two three"], tokenizer)
    model = copy.deepcopy(llama).train()
    held = next(iter(model.children())).eval()
    before = [module.training for module in model.modules()]
    audit(model, corpus)
    assert [module.training for module in model.modules()] == before
    sketch(Checkpoint("m", model, tokenizer), corpus)
    assert [module.training for module in model.modules()] == before
    assert model.training
    assert not held.training


def test_a_model_stays_in_its_mode_where_a_verb_fails(llama: Any) -> None:
    model = copy.deepcopy(llama).train()

    @restores_mode
    def fails(given: Any) -> None:
        given.eval()
        raise UnembedError("it fails")

    with pytest.raises(UnembedError, match="it fails"):
        fails(model)
    assert model.training


def test_what_is_no_model_no_text_and_no_audit(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Outside of tests nothing else looks at the types.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    corpus = Corpus.from_texts(["one two three"], tokenizer)
    checkpoint = Checkpoint("m", llama, tokenizer)
    calls: list[tuple[Callable[..., Any], tuple[Any, Any], str]] = [
        (audit, ("./model", corpus), "'./model' is no Module: give the model itself"),
        (audit, (checkpoint, corpus), r"a Checkpoint is no Module: .*load\(name\).model"),
        (audit, (llama, "text.txt"), "'text.txt' is no Corpus: give Corpus.read"),
        (sketch, (llama, corpus), r"a \w+ is no Checkpoint: give unembed.load\(name\)"),
        (compare, ("runs/a", "runs/b"), "'runs/a' before is no audit: give Audit.load"),
        (compare, ([1], [2]), "1 is no Audit: give Audit.load"),
    ]
    for verb, given, said in calls:
        with pytest.raises(UnembedError, match=said):
            verb(*given)
