"""What is said of a model before any text: against what its own parts say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from command_line import Run
from made_up.adapters import save_adapter
from made_up.models import ARCHITECTURES, SMALL, small_model
from made_up.tokenizers import with_bos, wordpiece
from places import SHARED
from unembed.errors import HeadError
from unembed.head.head import Head
from unembed.models import ModelCheck, check
from unembed.models.checkpoint import Checkpoint, load, token_ids
from unembed.models.depths import Depths, Tail

NORMS = {
    "llama": "model.norm (LlamaRMSNorm)",
    "gemma2": "model.norm (Gemma2RMSNorm)",
    "gpt2": "transformer.ln_f (LayerNorm)",
    "mamba": "backbone.norm_f (MambaRMSNorm)",
    "opt": "model.decoder.final_layer_norm (LayerNorm), model.decoder.project_out (Linear)",
    "phi": "model.final_layernorm (LayerNorm)",
}


def checked(model: Any, tokenizer: Any, **how: Any) -> ModelCheck:
    return check(Checkpoint("a model", model, tokenizer), **how)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_check_says_of_every_architecture_what_its_head_is(
    name: str, small_tokenizer: Any
) -> None:
    model = small_model(name)
    found, head = checked(model, small_tokenizer), Head.of(model, token_ids(small_tokenizer))
    assert (found.head, found.scale, found.softcap) == (head.recipe, head.scale, head.softcap)
    assert (found.rows, found.tokens, found.width) == (300, 290, head.dim)
    assert (found.tied, found.bias) == (head.tied, head.bias is not None)
    assert found.parameters == model.num_parameters()
    assert found.no_depths is None
    assert found.tail is not None
    assert found.tail.exact
    assert found.tail.blocks == (4 if name == "qwen3_next" else 2)
    if name in NORMS:
        assert ", ".join(found.tail.modules) == NORMS[name]
    assert found.pads
    assert found.to_mind == (
        "10 of 300 rows of its head are no tokens of its tokenizer, and can be no decision",
    )
    assert found.verdict == (
        f"a model can be measured exactly: its logits are {head.recipe}, and no position sees a "
        "later one; 1 thing to mind."
    )
    assert len(repr(found)) < 400


@pytest.fixture
def small_llama() -> Any:
    return small_model("llama")


def test_a_tail_with_a_step_that_is_no_module_is_not_called_a_chain(
    small_llama: Any, small_tokenizer: Any
) -> None:
    def double(_model: Any, _args: Any, output: Any) -> Any:
        output.last_hidden_state = 2 * output.last_hidden_state
        return output

    small_llama.model.register_forward_hook(double)
    assert Depths.of(small_llama).tail == Tail(2, ("model.norm (LlamaRMSNorm)",), False)
    found = checked(small_llama, small_tokenizer)
    assert any(one.startswith("more than modules in a row lies") for one in found.to_mind)


def test_blocks_that_are_not_proved_are_to_mind(small_llama: Any, small_tokenizer: Any) -> None:
    small_llama.model.layers[1].register_forward_pre_hook(lambda _b, args: (3 * args[0], *args[1:]))
    found = checked(small_llama, small_tokenizer)
    assert found.tail is None
    assert found.no_depths in found.to_mind
    assert ("tail", "not proved") in found.lines


def test_what_to_mind_is_said(small_llama: Any, topics: list[str]) -> None:
    small_llama.to(torch.bfloat16).train()
    with torch.no_grad():
        small_llama.model.embed_tokens.weight[299, 3] = float("nan")
    small_llama.config.max_position_embeddings = 9_000
    silent = wordpiece(topics)
    silent.backend_tokenizer.normalizer = normalizers.Lowercase()
    found = checked(small_llama, silent, context=32)
    assert small_llama.training
    assert (found.dtype, found.context, found.most_context) == ("bfloat16", 32, 9_000)
    assert (found.bos, found.lossless) == (None, False)
    said = "\n".join(found.to_mind)
    assert "1 of its weights hold numbers that are not finite (first: model.embed_tokens" in said
    assert "computes in bfloat16" in said
    assert f"has the token {silent.bos_token!r} for the beginning" in said
    assert "does not give back the text" in said
    assert "reads up to 9,000 tokens, and a run 2,048" in said
    text = str(found)
    assert text.startswith(found.verdict)
    assert all(f"\n  - {one}\n" in text for one in found.to_mind)
    assert f"<td>{len(found.to_mind)}" not in found._repr_html_()
    assert found._repr_html_().count("<tr>") == 1 + len(found.to_mind) + len(found.lines)


def test_a_tokenizer_that_begins_rows_is_named(small_llama: Any, small_tokenizer: Any) -> None:
    found = checked(small_llama, with_bos(small_tokenizer))
    assert found.bos == "<s>"
    assert ("it puts before a row", "'<s>'") in found.lines
    assert not any("beginning of a text" in one for one in found.to_mind)


def test_padding_that_changes_short_rows_is_found(small_tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = tf.Phi3Config(
        **SMALL,
        original_max_position_embeddings=16,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "original_max_position_embeddings": 16,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
        },
    )
    found = checked(tf.Phi3ForCausalLM(config).eval(), small_tokenizer)
    assert not found.pads
    assert "padding changes its short rows" in "\n".join(found.to_mind)


def test_what_an_audit_would_refuse_is_refused(small_tokenizer: Any) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    encoder = tf.BertLMHeadModel(tf.BertConfig(vocab_size=300, intermediate_size=64, **size)).eval()
    with pytest.raises(HeadError, match="is not causal"):
        checked(encoder, small_tokenizer)


def test_the_command_prints_verdict_and_facts(run: Run, llama_folder: Path, tmp_path: Path) -> None:
    done = run("check", llama_folder)
    assert (done.code, done.err) == (0, "")
    first, *rest = done.out.splitlines()
    assert first.startswith(f"{llama_folder} can be measured exactly: its logits are W h, ")
    assert any(line.startswith("padding") for line in rest)
    values = json.loads(run("check", llama_folder, "--dtype", "bfloat16", "--json").out)
    assert values["dtype"] == values["head_dtype"] == "bfloat16"
    assert values["verdict"].endswith("to mind.")
    assert values["tail"]["exact"] is True
    adapter = save_adapter(load(llama_folder).model, tmp_path / "tuned")
    merged = json.loads(run("check", adapter, "--base", llama_folder, "--json").out)
    assert merged["model"] == f"{llama_folder} with tuned"
    assert "--quantize-head needs --quantize" in run("check", llama_folder, "--quantize-head").line
    assert "no such model folder" in run("check", tmp_path / "nowhere").line


def test_a_rounded_head_is_no_longer_tied(run: Run) -> None:
    pytest.importorskip("torchao")
    asked = ("check", SHARED / "models/stories260K", "--quantize", "int4", "--quantize-head")
    if not asked[1].is_dir():
        pytest.skip(f"{asked[1]} is not here")
    values = json.loads(run(*asked, "--json").out)
    assert values["tied"] is False
    assert " in int4 with its head (torchao " in values["model"]


def test_a_tokenizer_of_other_strings_is_told_from_one_that_changes_spaces(
    small_llama: Any,
) -> None:
    backend = Tokenizer(BPE({"<unk>": 0, "C": 1, "O": 2, "c": 3}, [], unk_token="<unk>"))
    chemist = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    said = "\n".join(checked(small_llama, chemist, context=32).to_mind)
    assert "pieces of an English sentence are read as '<unk>'" in said
    assert "spaces or letters change" not in said
