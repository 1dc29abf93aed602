"""What a refinement moves: exactly the parameters in scope, and they survive saving."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from made_up.models import ARCHITECTURES, small_model
from made_up.wrappers import WRAPPERS
from unembed.errors import HeadError, UnembedError
from unembed.head.head import Head, final_hidden
from unembed.training.recipe import lora as lora_module
from unembed.training.recipe.lora import Lora
from unembed.training.recipe.scope import Scoped, apply_scope, check_scope, plain_model

IDS = torch.randint(2, 290, (2, 9), generator=torch.Generator().manual_seed(1))
SCOPES = ["full", "last-1-blocks", "last-2-blocks", "final-norm", "head", "norm+head", "lora"]
NAMES = {
    "llama": ("model.layers.", "model.norm.", "lm_head."),
    "gpt2": ("transformer.h.", "transformer.ln_f.", "transformer.wte."),
    "gemma2": ("model.layers.", "model.norm.", "model.embed_tokens."),
    "gpt_neox": ("gpt_neox.layers.", "gpt_neox.final_layer_norm.", "lm_head."),
    "qwen3": ("model.layers.", "model.norm.", "model.embed_tokens."),
    "phi": ("model.layers.", "model.final_layernorm.", "lm_head."),
}
"""Where blocks, final norm and head (or the input embedding tied to it) are."""
TIED = {"gpt2", "gemma2", "qwen3"}


def in_scope(name: str, scope: str, path: str) -> bool:
    """The expected membership, written out."""
    blocks, norm, head = NAMES[name]
    return {
        "full": True,
        "last-1-blocks": path.startswith(f"{blocks}1."),
        "last-2-blocks": path.startswith(blocks),
        "final-norm": path.startswith(norm),
        "head": path.startswith(head),
        "norm+head": path.startswith((norm, head)),
    }[scope]


def values(model: nn.Module) -> dict[str, Tensor]:
    return {path: p.detach().clone() for path, p in model.named_parameters()}


def flags(model: nn.Module) -> dict[str, bool]:
    return {path: p.requires_grad for path, p in model.named_parameters()}


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {path for path, p in model.named_parameters() if not torch.equal(p, before[path])}


def step(model: Any, lr: float = 0.1, steps: int = 1) -> None:
    """Plain SGD on the cross-entropy of some tokens."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    out: Tensor = model(input_ids=IDS).logits
    return out


def reloaded(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    return tf.AutoModelForCausalLM.from_pretrained(folder)


def same_model(one: Any, other: Any) -> None:
    """Every tensor to the bit, under the same name, and the logits up to the order of sums."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[path]) for path, value in ours.items())
    torch.testing.assert_close(logits(one), logits(other))


def refused(model: nn.Module, scope: str, **how: Any) -> str:
    """What this ends with; the model is as it was."""
    names, kinds, kept = flags(model), [type(m) for m in model.modules()], values(model)
    said = copy.deepcopy(getattr(model, "config", None))
    with pytest.raises(UnembedError) as caught:
        apply_scope(model, scope, **how)
    assert flags(model) == names
    assert [type(m) for m in model.modules()] == kinds
    assert not moved(model, kept)
    assert getattr(model, "config", None) == said
    assert not hasattr(model, "peft_config")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("scope", SCOPES[:-1])
@pytest.mark.parametrize("name", NAMES)
def test_exactly_the_parameters_in_scope_move(name: str, scope: str) -> None:
    model = small_model(name).train()
    next(model.parameters()).requires_grad_(False)
    before, were = values(model), flags(model)
    state = torch.get_rng_state()
    scoped = apply_scope(model, scope)
    assert torch.equal(torch.get_rng_state(), state)
    assert scoped.model is model
    expected = {path for path in before if in_scope(name, scope, path)}
    assert set(scoped.moves) == expected
    assert {path for path, flag in flags(model).items() if flag} == expected
    assert scoped.n_moving == sum(before[path].numel() for path in expected)
    assert scoped.n_total == sum(value.numel() for value in before.values())
    assert scoped.tied == (name in TIED)
    assert all(module.training for module in model.modules())
    step(model)
    assert moved(model, before) == expected
    assert plain_model(scoped) is model
    assert flags(model) == were


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_a_trained_model_reloads_as_it_was(name: str, scope: str, tmp_path: Path) -> None:
    model = small_model(name)
    start, kind = logits(model), type(model)
    scoped = apply_scope(model, scope)
    step(scoped.model, steps=2)
    plain = plain_model(scoped)
    assert type(plain) is kind
    again = reloaded(plain, tmp_path)
    assert type(again) is kind
    same_model(again, plain)
    assert not torch.allclose(logits(plain), start, rtol=1e-3)
    assert Head.of(again).tied == (name in TIED)


@pytest.mark.parametrize("scope", ["head", "norm+head", "full"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen3", "cohere", "opt", "mamba"])
def test_an_untied_head_moves_alone_and_survives_saving(
    name: str, scope: str, tmp_path: Path
) -> None:
    model: Any = small_model(name)
    if name == "llama":
        model.config.tie_word_embeddings = True
        model.tie_weights()
    start = logits(model)
    scoped = apply_scope(model, scope, untie=True)
    assert not scoped.tied
    torch.testing.assert_close(logits(model), start)
    assert "lm_head.weight" in scoped.moves
    embedding = model.get_input_embeddings().weight
    assert embedding.requires_grad == (scope == "full")
    kept = embedding.detach().clone()
    step(model)
    assert torch.equal(embedding, kept) == (scope != "full")
    assert not torch.equal(model.get_output_embeddings().weight, kept)
    model.tie_weights()
    model.tie_weights(recompute_mapping=False)
    again = reloaded(plain_model(scoped), tmp_path)
    same_model(again, model)
    assert again.config.tie_word_embeddings is False
    assert all(flags(model).values())
    assert not Head.of(again).tied


def test_an_untied_head_is_as_frozen_as_the_embedding_was() -> None:
    model: Any = small_model("gpt2")
    model.transformer.wte.weight.requires_grad_(False)
    plain_model(apply_scope(model, "head", untie=True))
    frozen = {path for path, flag in flags(model).items() if not flag}
    assert frozen == {"transformer.wte.weight", "lm_head.weight"}


def test_a_text_model_within_another(tmp_path: Path) -> None:
    """The longer list of blocks, of the part that sees, does not run; both configurations untie."""
    model = seeing()
    apply_scope(model, "last-1-blocks")
    assert {path for path, flag in flags(model).items() if flag} == {
        path for path in flags(model) if path.startswith("model.language_model.layers.1.")
    }
    scoped = apply_scope(model, "head", untie=True)
    assert scoped.moves == ("lm_head.weight",)
    assert not model.config.get_text_config().tie_word_embeddings
    step(model)
    again = reloaded(model, tmp_path)
    same_model(again, model)
    assert not Head.of(again).tied


def seeing() -> Any:
    torch.manual_seed(0)
    text = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "max_position_embeddings": 64}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = tf.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=299,
        boi_token_index=298,
        eoi_token_index=297,
    )
    return tf.Gemma3ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_blocks_norm_and_head_of_every_architecture(name: str) -> None:
    model = small_model(name)
    blocks = 4 if name == "qwen3_next" else 2
    scoped = apply_scope(model, f"last-{blocks - 1}-blocks")
    place = scoped.moves[0].split(".0.")[0].split(".1.")[0]
    inside = {path for path in flags(model) if path.startswith(f"{place}.")}
    assert set(scoped.moves) == {path for path in inside if not path.startswith(f"{place}.0.")}
    assert len(apply_scope(model, "final-norm").moves) in (1, 2)
    assert apply_scope(model, "head").n_moving >= 300 * 16
    assert f"at most last-{blocks}-blocks" in refused(model, f"last-{blocks + 1}-blocks")


def test_experts_are_no_blocks() -> None:
    """A longer list within each block, whose members run in order too."""

    class Experts(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.experts = nn.ModuleList([nn.Linear(32, 32) for _ in range(5)])

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + sum(expert(x) for expert in self.experts)

    model: Any = small_model("llama")
    for layer in model.model.layers:
        layer.mlp = Experts(layer.mlp)
    scoped = apply_scope(model, "last-1-blocks")
    assert all(path.startswith("model.layers.1.") for path in scoped.moves)
    assert sum("experts" in path for path in scoped.moves) == 10


def test_parallel_lists_are_no_blocks() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 32)])
            self.second = nn.ModuleList([nn.Linear(32, 32), nn.Linear(32, 32)])

        def forward(self, x: Tensor) -> Tensor:
            for first, second in zip(self.first, self.second, strict=True):
                x = second(first(x))
            return x

    model: Any = small_model("llama")
    model.model.layers = nn.ModuleList()
    assert "and runs none: take another" in refused(model, "last-1-blocks")
    model.model.norm = nn.Sequential(Halves(), model.model.norm)
    assert "runs several of 2 modules (model.norm.0.first" in refused(model, "last-1-blocks")


def test_words() -> None:
    def words(name: str, scope: str, **how: Any) -> str:
        return apply_scope(small_model(name), scope, **how).words

    assert words("llama", "last-1-blocks") == (
        "the last block moves (model.layers.1): 9,280 of 37,792 parameters"
    )
    assert "last 2 of 2 blocks move (transformer.h.0 to transformer.h.1)" in words(
        "gpt2", "last-2-blocks"
    )
    assert words("gpt2", "final-norm").startswith("the final norm moves (transformer.ln_f): 64 of ")
    tied = "; the head is tied, so the input embedding moves with it"
    for scope in ("full", "head", "norm+head"):
        assert words("gpt2", scope).endswith(tied)
        assert "is not tied, the input embedding" in words("llama", scope)
        assert "was untied, the input embedding" in words("gpt2", scope, untie=True)
    assert words("llama", "head").endswith("stays")
    assert words("llama", "full").endswith("moves apart from it")
    assert words("llama", "lora", lora=Lora(rank=2, targets=("q_proj", "v_proj"))) == (
        "adapters of rank 2 on 4 linear layers move (q_proj, v_proj): 448 of 38,240 parameters"
    )


def body(model: nn.Module) -> set[str]:
    """The linear layers of the blocks."""
    kinds = (nn.Linear, tf.pytorch_utils.Conv1D)
    return {path for path, m in model.named_modules() if isinstance(m, kinds) and path != "lm_head"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_adapters_move_alone_and_merge(name: str, dtype: torch.dtype) -> None:
    model = small_model(name, dtype)
    layers, start, before, were = body(model), logits(model), values(model), flags(model)
    scoped = apply_scope(model, "lora", lora=Lora(rank=3, alpha=12))
    torch.testing.assert_close(logits(scoped.model), start)
    inside = {path.split(".lora_")[0].removeprefix("base_model.model.") for path in scoped.moves}
    assert inside == layers
    assert len(scoped.moves) == 2 * len(layers)
    kept = values(scoped.model)
    assert {path for path, flag in flags(scoped.model).items() if flag} == set(scoped.moves)
    step(scoped.model, steps=3)
    assert moved(scoped.model, kept) == set(scoped.moves)
    final_hidden(scoped.model, IDS).sum().backward()
    adapted = logits(scoped.model)
    assert not torch.allclose(adapted, start, rtol=1e-2)
    plain = plain_model(scoped)
    size = float(adapted.abs().max())
    tolerance = (1e-5 if dtype == torch.float32 else 0.05) * size
    assert float((logits(plain) - adapted).abs().max()) <= tolerance
    assert plain.state_dict().keys() == small_model(name).state_dict().keys()
    assert moved(plain, before) == {f"{path}.weight" for path in layers}
    assert flags(plain) == were
    assert not hasattr(plain, "peft_config")


def test_settings_of_lora_arrive() -> None:
    scoped = apply_scope(small_model("llama"), "lora", lora=Lora(2, 6, 0.25, ("1.mlp.up_proj",), 5))
    assert len(scoped.moves) == 2
    layer = scoped.model.get_submodule("base_model.model.model.layers.1.mlp.up_proj")
    assert layer.lora_A["default"].weight.shape == (2, 32)
    assert layer.scaling["default"] == 3.0
    assert layer.lora_dropout["default"].p == 0.25


def test_adapters_start_from_their_seed_alone() -> None:
    def start(seed: int) -> dict[str, Tensor]:
        scoped = apply_scope(small_model("llama"), "lora", lora=Lora(seed=seed))
        return {path: p for path, p in values(scoped.model).items() if path in scoped.moves}

    first = start(1)
    model = small_model("llama")
    torch.manual_seed(77)
    state = torch.get_rng_state()
    other = values(apply_scope(model, "lora", lora=Lora(seed=1)).model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, other[path]) for path, value in first.items())
    assert any(not torch.equal(value, first[path]) for path, value in start(2).items())


def test_scopes_that_are_none() -> None:
    model = small_model("llama")
    for scope in ("heads", "last-0-blocks", "last-N-blocks", "last-2-block", ""):
        said = refused(model, scope)
        assert said.startswith(f"scope {scope!r} is not one of full, last-N-blocks, final-norm")
    assert "2 blocks of LlamaForCausalLM (model.layers)" in refused(model, "last-99-blocks")
    assert "takes no LoRA settings" in refused(model, "head", lora=Lora())


def test_heads_that_cannot_be_untied() -> None:
    assert "LlamaForCausalLM is not tied: nothing to untie" in refused(
        small_model("llama"), "head", untie=True
    )
    for scope in ("lora", "final-norm", "last-1-blocks"):
        assert "changes nothing" in refused(small_model("gpt2"), scope, untie=True)

    class Stubborn(tf.GPT2LMHeadModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.lm_head.weight = self.transformer.wte.weight

    torch.manual_seed(0)
    model = Stubborn(tf.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64))
    assert "ties its head" in refused(model, "head", untie=True)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_models_with_nothing_to_train_there() -> None:
    olmo = tf.OlmoForCausalLM(
        tf.OlmoConfig(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                      num_attention_heads=4, max_position_embeddings=64, pad_token_id=0)
    )  # fmt: skip
    within: Any = small_model("llama")
    within.model.norm = nn.Identity()
    for model, scope in itertools.product((olmo, within), ("final-norm", "norm+head")):
        assert "no norm with a gain" in refused(model, scope)
    whole: Any = small_model("llama")
    flat = nn.Parameter(torch.ones(32, 64, dtype=torch.int8), requires_grad=False)
    whole.model.layers[1].mlp.down_proj.weight = flat
    assert "holds weights of torch.int8" in refused(whole, "full")
    assert apply_scope(whole, "head").moves == ("lm_head.weight",)
    with pytest.raises(HeadError, match="has no output head"):
        apply_scope(nn.Linear(2, 2), "head")


def test_adapters_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("llama")
    said = refused(model, "lora", lora=Lora(targets=("q_proj", "qproj")))
    assert said == (
        "LoRA target 'qproj' is no linear layer of LlamaForCausalLM: it has q_proj, k_proj, "
        "v_proj, o_proj, gate_proj, up_proj, down_proj"
    )
    assert "no linear layer" in refused(model, "lora", lora=Lora(targets=("embed_tokens",)))
    said = refused(model, "lora", lora=Lora(targets=("lm_head",)))
    assert "'lm_head' is the head" in said
    for settings in ({"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}):
        with pytest.raises(UnembedError, match=f"LoRA {next(iter(settings))}"):
            Lora(**settings)  # type: ignore[arg-type]
    monkeypatch.setattr(lora_module, "find_spec", lambda _name: None)
    assert "unembed[train]" in refused(model, "lora")
    check_scope("head")


def test_layers_that_peft_does_not_adapt_are_refused_untouched() -> None:
    model = small_model("mamba")
    assert "adapts no such layers of MambaForCausalLM" in refused(model, "lora")
    scoped = apply_scope(model, "lora", lora=Lora(targets=("in_proj",)))
    assert len(scoped.moves) == 4


def test_a_model_with_adapters_takes_no_other_scope() -> None:
    scoped: Scoped = apply_scope(small_model("llama"), "lora")
    for model in (scoped.model, scoped.model.get_submodule("base_model.model")):
        with pytest.raises(UnembedError, match=r"merge them first, with plain_model\(scoped\)"):
            apply_scope(model, "head")
    assert apply_scope(plain_model(scoped), "head").moves == ("lm_head.weight",)


def in_a_tower(path: str) -> bool:
    return path.startswith(("model.vision_tower.", "model.multi_modal_projector."))


def test_towers_that_text_gives_no_gradient_do_not_move() -> None:
    """Nothing is counted as moving that no step can move."""
    model = WRAPPERS["llava"]()
    model.model.vision_tower.requires_grad_(False)
    were = flags(model)
    scoped = apply_scope(model, "full")
    assert set(scoped.moves) == {path for path in were if not in_a_tower(path)}
    sizes = {path: p.numel() for path, p in model.named_parameters()}
    assert scoped.n_moving == sum(n for path, n in sizes.items() if not in_a_tower(path))
    assert scoped.n_total == sum(sizes.values())
    assert scoped.words.startswith(
        "all of LlavaForConditionalGeneration moves but model.vision_tower, "
        f"model.multi_modal_projector, unused on text: {scoped.n_moving:,} of {scoped.n_total:,} "
    )
    before = values(model)
    step(model)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert {path for path in before if in_a_tower(path)} == before.keys() - moved(model, before)
    assert flags(plain_model(scoped)) == were
    assert "all of LlamaForCausalLM moves:" in apply_scope(small_model("llama"), "full").words


@pytest.mark.parametrize("targets", [None, ("q_proj",)])
def test_adapters_are_not_put_on_towers(targets: tuple[str, ...] | None) -> None:
    model = WRAPPERS["llava"]()
    assert "fc1" in {path.rpartition(".")[2] for path, _ in model.named_modules()}
    scoped = apply_scope(model, "lora", lora=Lora(targets=targets))
    adapted = {path.removeprefix("base_model.model.") for path in scoped.moves}
    assert adapted
    assert not [path for path in adapted if in_a_tower(path)]
    assert "'fc1' is no linear layer" in refused(
        WRAPPERS["llava"](), "lora", lora=Lora(targets=("fc1",))
    )
