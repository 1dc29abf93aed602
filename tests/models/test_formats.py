"""Checkpoints of quantised weights: read exactly, or refused by name before they are loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from made_up.gguf_files import write_gguf
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.models.checkpoint import load
from unembed.models.unused_weights import left_out_of
from unembed.runs.provenance import digest_of

LINEAR = "_proj.weight"


def rewritten(
    folder: Path,
    tmp_path: Path,
    change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]],
    settings: Any = None,
) -> Path:
    """A copy of a checkpoint whose linear weights are what ``change`` makes of them."""
    made = tmp_path / "made"
    made.mkdir()
    for file in folder.iterdir():
        (made / file.name).write_bytes(file.read_bytes())
    weights: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        weights |= change(name, weight) if name.endswith(LINEAR) else {name: weight}
    save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
    if settings is not None:
        configure(made, quantization_config=settings)
    return made


def configure(folder: Path, **settings: Any) -> None:
    """Write these into a checkpoint's configuration."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in whole numbers with a scale for each row."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale


def scaled(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    whole, scale = int8(weight)
    return {name: whole, f"{name}_scale": scale}


def unscaled(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: int8(weight)[0]}


def packed(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name.replace("weight", "qweight"): int8(weight)[0].view(torch.int32)}


def kept(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: weight}


def float8(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = weight.abs().amax().view(1, 1) / 448
    return {name: (weight / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}


def refused(folder: Path) -> str:
    with pytest.raises(UnembedError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("change", [scaled, unscaled, packed, float8])
def test_weights_that_nothing_scales_are_refused(
    change: Any, llama_folder: Path, tmp_path: Path
) -> None:
    folder = rewritten(llama_folder, tmp_path, change)
    said = refused(folder)
    assert "no quantization_config" in said
    assert "_proj." in said
    if change is packed:
        (folder / "quantize_config.json").write_text("{}")
        assert "quantize_config.json is GPTQ's" in refused(folder)


def test_integers_under_any_name_are_refused(checkpoint: Any, tmp_path: Path) -> None:
    from made_up.models import small_model

    folder = checkpoint(small_model("mixtral"))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "experts" in name)
    weights[name] = (weights[name] * 50).to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "I8" in refused(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "banana"}, "quantised by 'banana', which transformers does not know"),
        ({"bits": 4}, "without quant_method"),
        ({"quant_method": "hqq", "bits": 4}, "reads no HQQ checkpoint yet"),
        ({"quant_method": "gptq", "bits": 4}, "pip install gptqmodel optimum"),
        ({"quant_method": "awq", "bits": 4}, "pip install gptqmodel accelerate"),
        ({"quant_method": "aqlm"}, "pip install 'aqlm"),
        ({"quant_method": "fbgemm_fp8"}, "pip install fbgemm-gpu"),
    ],
    ids=lambda value: value.get("quant_method", "none") if isinstance(value, dict) else "",
)
def test_a_format_that_cannot_be_read_is_named_with_its_remedy(
    settings: Any, message: str, llama_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("unembed.models.formats._is_there", lambda _module: False)
    assert message in refused(rewritten(llama_folder, tmp_path, kept, settings))


def test_a_format_is_refused_before_its_weights_are_read(
    llama_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    import transformers

    folder = rewritten(llama_folder, tmp_path, kept, {"quant_method": "banana"})
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    assert "'banana'" in refused(folder)


def test_weights_in_float8_with_a_scale_for_each_block(
    llama: Any, llama_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    settings = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [96, 96],
    }
    folder = rewritten(llama_folder, tmp_path, float8, settings)
    got = load(folder).model
    for name, weight in llama.state_dict().items():
        if name.endswith(LINEAR):
            parts = float8(name, weight)
            wanted = parts[name].float() * parts[f"{name}_scale_inv"]
            assert torch.equal(got.get_parameter(name), wanted)


@pytest.mark.parametrize("kind", ["int8", "activations"])
def test_a_checkpoint_of_torchao_is_audited(kind: str, checkpoint: Any, tmp_path: Path) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    import transformers

    from made_up.models import small_model

    how = {
        "int8": torchao.Int8WeightOnlyConfig,
        "activations": torchao.Int8DynamicActivationInt8WeightConfig,
    }[kind]()
    plain = checkpoint(small_model("llama"))
    held = transformers.AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=transformers.TorchAoConfig(how)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    wanted = held.get_parameter(name).dequantize()
    folder = checkpoint(held)
    got = load(folder)
    assert torch.equal(got.model.get_parameter(name), wanted)
    assert not torch.equal(wanted, load(plain).model.get_parameter(name))
    rounds = ("rounding of activations by Int8Tensor",) if kind == "activations" else ()
    assert left_out_of(got.model) == rounds
    assert all(type(one.data) is torch.Tensor for one in got.model.parameters())
    assert Head.of(got.model).vocab == 300
    assert digest_of(got.model)
    got.model.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again/config.json").read_text())
    saved = load_file(tmp_path / "again/model.safetensors")
    assert torch.equal(saved[name], wanted)


def test_integers_of_compressed_tensors(llama: Any, llama_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    got = load(rewritten(llama_folder, tmp_path, scaled, settings)).model
    for name, weight in llama.state_dict().items():
        if name.endswith(LINEAR):
            whole, scale = int8(weight)
            assert torch.equal(got.get_parameter(name), whole.float() * scale)


def test_a_file_of_gguf(
    tokenizer: Any, tmp_path: Path, topics: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    file, stored = write_gguf(gguf, tokenizer, tmp_path / "model")
    got, again = load(file), load(file.parent)
    assert torch.equal(got.model.lm_head.weight, stored["output.weight"])
    assert torch.equal(got.model.model.layers[0].mlp.up_proj.weight, stored["blk.0.ffn_up.weight"])
    assert digest_of(got.model) == digest_of(again.model)
    assert got.tokenizer(topics[0])["input_ids"] == tokenizer(topics[0])["input_ids"]
    assert Head.of(got.model).vocab == len(tokenizer)
    assert capfd.readouterr() == ("", "")
    (file.parent / "other.gguf").write_bytes(file.read_bytes())
    assert "holds 2 GGUF files: give one of them" in refused(file.parent)


def test_a_file_of_gguf_without_its_package(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("unembed.models.formats._is_there", lambda _module: False)
    for place in (tmp_path / "model.gguf", tmp_path):
        assert "pip install gguf accelerate" in refused(place)
