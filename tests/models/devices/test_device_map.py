"""A model that is spread over devices and disk is measured to the bit as one in memory."""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers as tf

import unembed
from made_up.corpora import TEXTS
from made_up.models import SMALL
from unembed.decisions import AuditOptions
from unembed.errors import UnembedError
from unembed.models.adapters import load_whole
from unembed.models.devices import placement
from unembed.models.quantization import quantized
from unembed.models.replicas import replicas_of
from unembed.runs.provenance import digest_of

DISK = {
    "model.embed_tokens": "disk",
    "model.layers": "disk",
    "model.norm": "disk",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}
OPTIONS = AuditOptions(slices=2, context=24, batch_tokens=64)


@pytest.fixture
def corpus(tokenizer: Any, tmp_path: Path) -> unembed.Corpus:
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    return unembed.Corpus.read(tmp_path / "text.txt", tokenizer)


@pytest.fixture
def experts(checkpoint: Callable[..., Path], llama: Any) -> Path:
    """Experts lie in files one by one and in the model together: accelerate writes them again."""
    torch.manual_seed(2)
    small = {**SMALL, "vocab_size": llama.config.vocab_size}
    return checkpoint(tf.MixtralForCausalLM(tf.MixtralConfig(**small, num_local_experts=4)).eval())


@pytest.mark.parametrize("name", ["llama_folder", "experts"])
def test_an_audit_from_disk_is_that_from_memory(
    name: str,
    corpus: unembed.Corpus,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    torch.set_num_threads(1)
    folder = request.getfixturevalue(name)
    plain, spread = unembed.load(folder), unembed.load(folder, device_map=DISK)
    assert {one.device.type for one in spread.model.parameters()} == {"cpu", "meta"}
    assert digest_of(spread.model) == digest_of(plain.model)
    assert replicas_of(spread.model, 2) == [spread.model]
    one, two = (unembed.audit(made.model, corpus, OPTIONS) for made in (plain, spread))
    assert one.in_memory is not None
    assert one.in_memory.equals(two.in_memory)
    assert one.slices == two.slices
    assert any(tmp_path.glob("unembed-*/*")) == (name == "experts")
    del spread, two
    gc.collect()
    assert not any(tmp_path.glob("unembed-*"))


@pytest.mark.parametrize("tied", [False, True])
def test_auto_gives_the_head_its_room_first(
    tied: bool,
    corpus: unembed.Corpus,
    checkpoint: Callable[..., Path],
    llama: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {**SMALL, "vocab_size": llama.config.vocab_size, "tie_word_embeddings": tied}
    made = tf.LlamaForCausalLM(tf.LlamaConfig(**small)).eval()
    size = sum(one.numel() * one.element_size() for one in made.parameters())
    room = {"cpu": int(0.4 * size)}
    torch.set_num_threads(1)
    monkeypatch.setattr(accelerate.utils, "get_balanced_memory", lambda *_a, **_k: dict(room))
    folder = checkpoint(made)
    spread = unembed.load(folder, device_map="auto").model
    assert spread.lm_head.weight.device.type == "cpu"
    assert any(one.is_meta for one in spread.parameters())
    assert (spread.lm_head.weight is spread.model.embed_tokens.weight) == tied
    found = unembed.audit(spread, corpus, OPTIONS)
    wanted = unembed.audit(unembed.load(folder).model, corpus, OPTIONS)
    assert found.provenance.head_digest == wanted.provenance.head_digest
    assert found.provenance.model_digest == wanted.provenance.model_digest
    assert found.in_memory is not None
    assert found.in_memory.equals(wanted.in_memory)


def test_what_cannot_be_spread_is_refused_in_one_line(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnembedError, match=r"^--device cpu puts the model on one device"):
        unembed.load(llama_folder, device="cpu", device_map="auto")
    with pytest.raises(UnembedError, match=r"^--device-map 'balanced' is not known: give auto"):
        unembed.load(llama_folder, device_map="balanced")
    with pytest.raises(UnembedError, match="offloads the output head"):
        unembed.load(llama_folder, device_map={**DISK, "lm_head": "disk"})
    spread = unembed.load(llama_folder, device_map=DISK)
    with pytest.raises(UnembedError, match=r"^--quantize int8 rounds whole weights"):
        quantized(spread, "int8")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnembedError, match="holds an adapter, which --device-map puts in no place"):
        load_whole(tmp_path, device_map="auto")
    monkeypatch.setattr(placement, "find_spec", lambda _name: None)
    assert importlib.util.find_spec("accelerate") is not None
    with pytest.raises(UnembedError, match=r"^--device-map needs accelerate: pip install"):
        unembed.load(llama_folder, device_map="auto")
