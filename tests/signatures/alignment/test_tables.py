"""Signatures as short text."""

from __future__ import annotations

from typing import Any

import pytest

from unembed import Checkpoint, Corpus, SketchOptions, sketch
from unembed.signatures.alignment.tables import LONE, network_text, signature_text
from unembed.signatures.network.run import sketch_network
from unembed.signatures.network.sketcher import NetworkOptions

TEXT = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(("documents", "said"), [(1, True), (2, False)])
def test_what_one_document_cannot_be_compared_with_is_said_at_once(
    llama: Any, tokenizer: Any, documents: int, said: bool
) -> None:
    checkpoint = Checkpoint("m", llama, tokenizer)
    corpus = Corpus.from_texts([TEXT] * documents, tokenizer)
    options = SketchOptions(m=64)
    assert (LONE in signature_text(sketch(checkpoint, corpus, options))) == said
    network = NetworkOptions(m=64, modules=("head",))
    assert (LONE in network_text(sketch_network(checkpoint, corpus, network))) == said
