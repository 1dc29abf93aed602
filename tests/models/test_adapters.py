"""LoRA folders as PEFT saves them: merged into a copy, or refused in one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from made_up.adapters import save_adapter
from unembed.cli.options import opened
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.models import adapters
from unembed.models.adapters import (
    CONFIG,
    WEIGHTS,
    adapted,
    is_adapter,
    is_adapter_alone,
    load_whole,
    refuse_untrainable,
)
from unembed.models.checkpoint import Checkpoint
from unembed.runs.provenance import digest_of

IDS = torch.tensor([[3, 17, 5, 40, 8]])


@pytest.fixture
def base(llama: Any, tokenizer: Any) -> Checkpoint:
    return Checkpoint("the model", llama, tokenizer)


def line(base: Checkpoint, folder: Path) -> str:
    with pytest.raises(UnembedError) as caught:
        adapted(base, folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_an_adapter_is_added_to_a_copy(base: Checkpoint, tmp_path: Path) -> None:
    folder = save_adapter(base.model, tmp_path / "reviews")
    assert is_adapter(folder)
    assert not is_adapter(tmp_path)
    before, drawn = digest_of(base.model), torch.get_rng_state()
    made = adapted(base, folder)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert digest_of(base.model) == before
    assert not hasattr(base.model, "peft_config")
    assert made.name == "the model with reviews"
    assert made.tokenizer is base.tokenizer
    assert not made.model.training
    held = load_file(folder / WEIGHTS)
    path = "model.layers.1.mlp.up_proj"
    a, b = (held[f"base_model.model.{path}.lora_{side}.weight"] for side in "AB")
    scale = json.loads((folder / CONFIG).read_text())["lora_alpha"] / 2
    want = base.model.get_submodule(path).weight + scale * b @ a
    torch.testing.assert_close(made.model.get_submodule(path).weight, want)
    with torch.no_grad():
        assert not torch.allclose(made.model(IDS).logits, base.model(IDS).logits)
    assert Head.of(made.model).digest == Head.of(base.model).digest
    assert set(made.model.state_dict()) == set(base.model.state_dict())


def test_adapters_of_the_head_are_refused(base: Checkpoint, tmp_path: Path) -> None:
    """Whether as low-rank matrices, or saved whole."""
    low = save_adapter(base.model, tmp_path / "low", target_modules=["lm_head"])
    assert "changes the output head" in line(base, low)
    whole = save_adapter(base.model, tmp_path / "whole", modules_to_save=["lm_head"])
    held = load_file(whole / WEIGHTS)
    [name] = [name for name in held if "lm_head" in name]
    held[name] = held[name] + 0.5
    save_file(held, whole / WEIGHTS, {"format": "pt"})
    assert "changes the output head" in line(base, whole)


def test_adapters_of_the_embeddings(base: Checkpoint, tokenizer: Any, tmp_path: Path) -> None:
    """They may change where the head is not tied to them."""
    from transformers import LlamaForCausalLM

    free = save_adapter(base.model, tmp_path / "free", target_modules=["embed_tokens"])
    made = adapted(base, free)
    assert not torch.equal(
        made.model.get_input_embeddings().weight, base.model.get_input_embeddings().weight
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(
            type(base.model.config)(**{**base.model.config.to_dict(), "tie_word_embeddings": True})
        ).eval()
    tied = Checkpoint("tied", model, tokenizer)
    refused = line(tied, save_adapter(model, tmp_path / "tied", target_modules=["embed_tokens"]))
    assert "changes the output head" in refused or "changes the embedding that" in refused


def test_adapters_of_another_model(base: Checkpoint, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    def other(**how: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            return LlamaForCausalLM(
                type(base.model.config)(**{**base.model.config.to_dict(), **how})
            )

    wide = save_adapter(other(intermediate_size=128), tmp_path / "wide")
    assert "does not fit the model (" in line(base, wide)
    deep = save_adapter(other(num_hidden_layers=3), tmp_path / "deep")
    assert "has no base_model.model.model.layers.2" in line(base, deep)
    flat = save_adapter(other(num_hidden_layers=1), tmp_path / "flat")
    assert "also needs base_model.model.model.layers.1" in line(base, flat)
    named = save_adapter(base.model, tmp_path / "named")
    config = json.loads((named / CONFIG).read_text())
    (named / CONFIG).write_text(json.dumps({**config, "target_modules": ["nowhere"]}))
    assert "does not fit the model (" in line(base, named)


def test_what_is_no_adapter(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_adapter(base.model, tmp_path / "a")
    held, config = (folder / WEIGHTS).read_bytes(), (folder / CONFIG).read_text()
    assert "holds no adapter_config.json" in line(base, tmp_path)
    (folder / WEIGHTS).write_bytes(held[: len(held) // 2])
    assert "is damaged" in line(base, folder)
    (folder / WEIGHTS).unlink()
    assert "holds no adapter_model.safetensors" in line(base, folder)
    torch.save({"x": torch.zeros(2)}, folder / "adapter_model.bin")
    assert "only as a pickle (adapter_model.bin)" in line(base, folder)
    (folder / WEIGHTS).write_bytes(held)
    (folder / CONFIG).write_text(config.replace('"LORA"', '"IA3"'))
    assert "type IA3" in line(base, folder)
    for text in ("{", "[]"):
        (folder / CONFIG).write_text(text)
        assert "is no JSON object" in line(base, folder)
    (folder / CONFIG).write_text(config)
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "peft" else found(name, package)

    monkeypatch.setattr(adapters, "find_spec", without)
    assert "pip install 'unembed[train]'" in line(base, folder)


def test_an_adapter_is_loaded_on_its_base(
    base: Checkpoint, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base that is given, or the folder that the adapter names, from here or from there."""
    folder = save_adapter(base.model, tmp_path / "reviews")
    want = adapted(base, folder).model(IDS).logits
    assert is_adapter_alone(folder)
    config = json.loads((folder / CONFIG).read_text())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").symlink_to(llama_folder)
    for named, given in (
        ("some-one/model", str(llama_folder)),
        (str(llama_folder), None),
        ("here", None),
        ("../here", None),
    ):
        (folder / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": named}))
        made = load_whole(folder, base=given)
        torch.testing.assert_close(made.model(IDS).logits, want)
        assert made.name.endswith(" with reviews")
    (folder / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "a/b"}))
    with pytest.raises(UnembedError, match="adapter of 'a/b', which is no folder here: give --bas"):
        load_whole(folder)
    with pytest.raises(UnembedError, match=r"is none .* leave --base out"):
        load_whole(llama_folder, base=str(llama_folder))


def test_as_a_model_an_adapter_may_change_the_head(
    base: Checkpoint, llama_folder: Path, tmp_path: Path
) -> None:
    low = save_adapter(base.model, tmp_path / "low", target_modules=["lm_head"])
    made = load_whole(low, base=str(llama_folder))
    assert Head.of(made.model).digest != Head.of(base.model).digest


def test_an_adapter_beside_whole_weights_is_said_to_be_in_place(
    base: Checkpoint, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers puts it in place without a word."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    save_adapter(base.model, folder)
    assert is_adapter(folder)
    assert not is_adapter_alone(folder)
    found = opened(str(folder))
    assert found.name == f"{folder} with the adapter in its folder"
    assert "an adapter lies beside the weights and is in place" in capsys.readouterr().err
    want = adapted(base, folder).model(IDS).logits
    torch.testing.assert_close(found.model(IDS).logits, want)
    assert opened(str(llama_folder)).name == str(llama_folder)
    assert capsys.readouterr().err == ""


def test_an_adapter_in_place_of_a_name_on_the_hub_is_seen_before_the_load(
    llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the cache that a download leaves."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name, files in (("both", (CONFIG, "config.json")), ("plain", ("config.json",))):
        repository = tmp_path / f"models--made--{name}"
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        for file in files:
            (snapshot / file).write_text("{}")
    with pytest.raises(UnembedError, match=r"made/both holds an adapter beside .* hf download"):
        refuse_untrainable("made/both")
    for name in ("made/plain", "made/nothing", "no name/at all/of one", str(llama_folder)):
        refuse_untrainable(name)
