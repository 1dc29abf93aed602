"""The head of every architecture that people use, recovered without being told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf

import reference.sweep
from made_up.models import ARCHITECTURES, small_model
from unembed.errors import HeadError
from unembed.head import head as head_module
from unembed.head.head import Head, faster_body_route, final_hidden
from unembed.head.precision import Precision

RECIPES = {
    "gemma2": "softcap(W h, 30)",
    "cohere": "0.0625 (W h)",
    "granite": "0.0769231 (W h)",
    "phi": "W h + b",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_recipe_is_recovered_and_hidden_states_reach_the_head(
    name: str, dtype: torch.dtype
) -> None:
    model = small_model(name, dtype)
    head = Head.of(model)
    assert head.recipe == RECIPES.get(name, "W h")
    assert head.tied == (
        model.get_input_embeddings().weight is model.get_output_embeddings().weight
    )
    ids = torch.randint(2, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = final_hidden(model, ids)
        theirs = model(input_ids=ids).logits.double()
    logits = reference.sweep.logits(hidden, head)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert float((logits - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def test_a_head_is_recovered_and_proved_in_one_pass() -> None:
    model, passes = small_model("gemma2"), []
    model.model.layers[0].register_forward_hook(lambda *_given: passes.append(1))
    Head.of(model)
    assert len(passes) == 1
    assert not model.lm_head._forward_hooks


def test_a_final_hidden_state_costs_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama")

    def refuse(*_args: object) -> None:
        raise AssertionError("the head was run")

    monkeypatch.setattr(model.lm_head, "forward", refuse)
    with torch.no_grad():
        assert final_hidden(model, torch.ones(1, 5, dtype=torch.long)).shape == (1, 5, 32)
    assert not model.lm_head._forward_pre_hooks


def test_the_body_takes_the_faster_product_only_where_it_is_as_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = Precision("wide", 1e-7, True, float32_route="onednn")
    plain = Precision("wide", 1e-7, True)
    assert faster_body_route(small_model("llama"), fast) == "onednn"
    assert faster_body_route(small_model("llama"), plain) == "ieee"
    assert faster_body_route(small_model("llama", torch.bfloat16), fast) == "onednn"
    for dtype, step in ((torch.float32, 2.0**-9), (torch.bfloat16, 2.0**-7)):
        answers = iter([torch.ones(1, 4, 8, dtype=dtype), torch.ones(1, 4, 8, dtype=dtype) + step])
        monkeypatch.setattr(head_module, "final_hidden", lambda *_args, given=answers: next(given))
        assert faster_body_route(small_model("llama"), fast) == "ieee"


def test_padded_rows_and_unknown_ids_are_no_tokens() -> None:
    model = small_model("llama")
    head = Head.of(model, [i for i in range(290) if i != 7])
    assert head.tokens == 289
    assert head.valid is not None
    assert not head.valid[7]
    assert Head.of(model, range(300)).valid is None


def test_the_digest_follows_weights_recipe_and_tokens() -> None:
    model = small_model("llama")
    heads = [
        Head.of(model),
        Head.of(model, range(290)),
        Head.of(small_model("cohere")),
        Head.from_parts(model.lm_head.weight.detach() * 2),
        Head.from_parts(model.lm_head.weight.detach(), scale=2.0),
    ]
    assert len({head.digest for head in heads}) == len(heads)
    assert Head.of(small_model("llama")).digest == heads[0].digest


class Odd(torch.nn.Module):
    """A causal model whose logits are what ``bend`` makes of a linear head's."""

    def __init__(self, bend: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50, bias=False)
        self.bend = bend

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        logits = self.bend(self.head(self.embed(input_ids)))
        return tf.modeling_outputs.CausalLMOutput(logits=logits)


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (lambda x: x**3, "neither a scale nor a soft-cap"),
        (lambda x: x + 1, "neither a scale nor a soft-cap"),
        (lambda x: -x, "neither a scale nor a soft-cap"),
        (lambda x: x.clamp(-5, 5), "neither a scale nor a soft-cap"),
        (lambda x: x[..., 10:], "neither a scale nor a soft-cap"),
        (lambda x: torch.cat([x, x[..., :4]], -1), "returns 54 logits from a head of 50 rows"),
    ],
    ids=["cube", "shift", "negated", "clamped", "cut at its beginning", "repeated"],
)
def test_other_transforms_are_refused(bend: Any, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        Head.of(Odd(bend))


class Bent(torch.nn.Linear):
    """A head that is not the product with its weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.abs())


def test_a_head_that_is_no_product_is_refused() -> None:
    model = Odd(lambda x: x)
    model.head = Bent(8, 50, bias=False)
    with pytest.raises(HeadError, match="disagrees with Odd's own logits"):
        Head.of(model)


def test_a_scale_and_cap_of_an_unknown_model_are_read_off() -> None:
    head = Head.of(Odd(lambda x: 17.5 * torch.tanh(0.3 * x / 17.5)))
    assert head.scale == pytest.approx(0.3, rel=1e-5)
    assert head.softcap == pytest.approx(17.5, rel=1e-5)


def test_models_without_a_causal_head_are_refused() -> None:
    _with = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = tf.BertConfig(vocab_size=300, intermediate_size=64, **_with)
    with pytest.raises(HeadError, match="BertModel has no output head"):
        Head.of(tf.BertModel(bert).eval())
    masked = tf.BertForMaskedLM(bert).eval()
    torch.nn.init.normal_(masked.bert.embeddings.word_embeddings.weight)
    with pytest.raises(HeadError, match="not causal"):
        Head.of(masked)


def test_a_head_on_more_rows_than_logits_is_refused() -> None:
    """ProphetNet predicts several tokens ahead, and returns the logits of the first."""
    model = tf.ProphetNetForCausalLM(
        tf.ProphetNetConfig(
            vocab_size=300,
            hidden_size=32,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            num_encoder_layers=1,
            num_decoder_layers=1,
            num_encoder_attention_heads=2,
            num_decoder_attention_heads=2,
            is_decoder=True,
            is_encoder_decoder=False,
            add_cross_attention=False,
        )
    ).eval()
    with pytest.raises(HeadError, match=r"calls its head on 32 rows for 16 logits at 16 tokens"):
        Head.of(model)


def test_rows_that_the_model_slices_off_its_logits_are_no_tokens() -> None:
    class Sliced(tf.LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits[..., :290]
            return output

    model = Sliced(small_model("llama").config).eval()
    head = Head.of(model)
    assert head.valid is not None
    assert torch.equal(head.valid, torch.arange(300) < 290)
    assert Head.of(model, [3, 295, 7]).tokens == 2
