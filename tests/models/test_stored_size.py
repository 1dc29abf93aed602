"""Bytes of weights: of files, of schemes by a count of bits, and of what is held rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from made_up.gguf_files import write_gguf
from unembed.models.adapters import load_whole
from unembed.models.quantization import nominal_bytes
from unembed.models.stored_size import WeightBytes, bytes_in, bytes_of_weights, bytes_when_rounded


def test_files_say_what_body_and_head_take(llama: Any, llama_folder: Path) -> None:
    found = bytes_of_weights(load_whole(llama_folder), str(llama_folder))
    head = llama.lm_head.weight
    assert found.head == head.numel() * head.element_size()
    sizes = [one.numel() * one.element_size() for one in llama.parameters()]
    assert (found.weights, found.known, found.rounded) == (sum(sizes), "stored", ())


def test_a_tied_matrix_is_counted_once_with_the_head(
    llama: Any, checkpoint: Callable[..., Path]
) -> None:
    config = type(llama.config)(**llama.config.to_dict() | {"tie_word_embeddings": True})
    with torch.random.fork_rng(devices=[]):
        tied = type(llama)(config)
    place = checkpoint(tied.to(torch.bfloat16))
    found = bytes_of_weights(load_whole(place, dtype="float32"), str(place))
    assert found.head == 2 * tied.lm_head.weight.numel()
    assert found.weights == 2 * sum(one.numel() for one in tied.parameters())


def test_a_model_without_files_here_is_counted_as_it_is_loaded(llama_folder: Path) -> None:
    found = bytes_of_weights(load_whole(llama_folder), "org/on-the-hub")
    assert found.known == "loaded"
    assert found.weights == bytes_of_weights(load_whole(llama_folder), str(llama_folder)).weights


def counted(model: Any, bits: int, group: int | None, *, head: bool) -> tuple[int, int]:
    """Every matrix by itself, in bits, scales in the model's precision."""
    body = of_head = 0.0
    for name, parameter in model.named_parameters():
        own = name == "lm_head.weight"
        linear = parameter.ndim == 2 and "embed" not in name and (head or not own)
        size, width = parameter.numel(), parameter.element_size()
        taken = float(size * width)
        if linear:
            rows, columns = parameter.shape
            scales = rows * (columns // group if group and columns % group == 0 else 1)
            taken = size * bits / 8 + scales * width
        body, of_head = (body, of_head + taken) if own else (body + taken, of_head)
    return round(body), round(of_head)


@pytest.mark.parametrize(("scheme", "bits", "group"), [("int8", 8, None), ("int4", 4, 32)])
@pytest.mark.parametrize("head", [False, True])
def test_a_scheme_takes_its_bits(
    llama: Any, scheme: str, bits: int, group: int | None, head: bool
) -> None:
    assert nominal_bytes(llama, scheme, head=head) == counted(llama, bits, group, head=head)


def test_a_tied_head_that_is_rounded_is_counted_beside_its_embedding(llama: Any) -> None:
    config = type(llama.config)(**llama.config.to_dict() | {"tie_word_embeddings": True})
    with torch.random.fork_rng(devices=[]):
        tied = type(llama)(config)
    untied = counted(llama, 8, None, head=True)
    assert nominal_bytes(tied, "int8", head=True) == untied
    body, head = nominal_bytes(tied, "int8")
    whole = tied.lm_head.weight.numel() * 4
    assert (body, head) == (untied[0] - whole, whole)


def test_what_is_not_rounded_takes_what_files_hold(llama: Any) -> None:
    weights = sum(one.numel() for one in llama.parameters())
    stored = WeightBytes(2 * weights - 10, 10, "stored")
    found = bytes_when_rounded(llama, "int8", stored)
    assert found.known == "nominal"
    assert found.head == 2 * llama.lm_head.weight.numel()
    assert found.rounded[0].kind == "all weights"
    assert 0 < found.rounded[0].rounded < weights
    assert bytes_in(llama, 2, "bf16").weights == 2 * weights


def test_a_file_of_gguf_says_its_bytes_and_what_is_rounded(tokenizer: Any, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    file, stored = write_gguf(gguf, tokenizer, tmp_path / "model")
    found = bytes_of_weights(load_whole(file), str(file))
    rounded = sum(one.numel() for one in stored.values())
    assert found.weights == rounded * 34 // 32 + 3 * 64 * 4
    assert found.head == stored["output.weight"].numel() * 34 // 32
    every, *kinds = found.rounded
    assert (every.rounded, every.weights) == (rounded, rounded + 3 * 64)
    assert {one.kind for one in kinds} == {
        *("linear layers", "head", "embeddings", "norms and biases")
    }


def test_a_quantised_checkpoint_says_what_it_holds_rounded(
    llama: Any, checkpoint: Callable[..., Path], tokenizer: Any, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    plain = checkpoint(llama)
    made = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    made.save_pretrained(tmp_path / "int8")
    tokenizer.save_pretrained(tmp_path / "int8")
    found = bytes_of_weights(load_whole(tmp_path / "int8"), str(tmp_path / "int8"))
    whole = bytes_of_weights(load_whole(plain), str(plain))
    assert found.weights < 0.7 * whole.weights
    by_kind = {one.kind: one.rounded / one.weights for one in found.rounded}
    assert by_kind["linear layers"] == 1
    assert by_kind["embeddings"] == by_kind["norms and biases"] == 0
