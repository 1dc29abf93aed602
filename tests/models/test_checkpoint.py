from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from made_up.wrappers import WRAPPERS
from unembed.cli.options import opened
from unembed.decisions.audit.audit import Audit, audit
from unembed.errors import UnembedError
from unembed.head.head import Head, final_hidden
from unembed.models.causes import missing_package
from unembed.models.checkpoint import CONTEXT_LIMIT, context_of, load, load_tokenizer, token_ids
from unembed.models.unused_weights import left_out_of
from unembed.report.parts.facts import facts_of
from unembed.runs.manifest import read_run
from unembed.text.corpus import Corpus

SMALL = {
    "vocab_size": 480,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}


def refused(folder: str | Path, **how: Any) -> str:
    """The one line that loading this ends with."""
    with pytest.raises(UnembedError) as caught:
        load(folder, **how)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def copy(llama_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


def test_a_folder_of_a_causal_model(
    llama_folder: Path, llama: Any, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    got = load(llama_folder)
    assert got.name == str(llama_folder)
    assert not got.model.training
    assert got.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert torch.equal(Head.of(got.model).weight, llama.lm_head.weight)
    assert token_ids(got.tokenizer) == list(range(477))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(llama_folder: Path, dtype: str) -> None:
    assert load(llama_folder, dtype=dtype).model.dtype is getattr(torch, dtype)


def test_auto_keeps_the_precision_of_the_checkpoint(
    llama: Any, checkpoint: Callable[..., Path]
) -> None:
    from transformers import LlamaForCausalLM

    half = LlamaForCausalLM(llama.config).to(torch.bfloat16)
    assert load(checkpoint(half)).model.dtype is torch.bfloat16


def test_settings_that_are_none(llama_folder: Path) -> None:
    assert "--dtype 'int3'" in refused(llama_folder, dtype="int3")
    for device in ("rubbish", "meta", *([] if torch.cuda.is_available() else ["cuda"])):
        said = refused(llama_folder, device=device)
        assert said.startswith(f"--device {device} cannot be used")
        assert "or give cpu" in said


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a/b/c"])
def test_a_folder_that_is_not_there(name: str) -> None:
    assert refused(name) == f"{name}: no such model folder"


@pytest.mark.parametrize("name", ["missing", "some-one/missing"])
def test_a_name_that_is_no_folder_and_not_on_the_hub(name: str) -> None:
    assert f"{name} is no causal language model that can be loaded, nor is it a folder" in refused(
        name
    )


def test_what_is_no_checkpoint(tmp_path: Path, copy: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "is a file: give the folder" in refused(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "holds no config.json" in refused(tmp_path / "empty")
    (copy / "model.safetensors").unlink()
    assert "holds no .safetensors weights" in refused(copy)


def test_pickled_weights_are_never_opened(copy: Path, llama: Any) -> None:
    (copy / "model.safetensors").unlink()
    torch.save(llama.state_dict(), copy / "pytorch_model.bin")
    said = refused(copy)
    assert "only as a pickle (pytorch_model.bin)" in said
    assert "save_pretrained" in said


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_pickled_weights_beside_other_safetensors_are_never_opened(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "adapter.safetensors")
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(copy / "sprung")))
    assert "no file named model.safetensors" in refused(copy)
    assert not (copy / "sprung").exists()


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_damaged_weights(copy: Path, keep: int) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "weights are damaged or incomplete" in refused(copy)
    weights.write_bytes(b"\xff" * 1000)
    assert "copy or download the checkpoint again" in refused(copy)


def test_a_missing_shard(tmp_path: Path, llama: Any, tokenizer: Any) -> None:
    llama.save_pretrained(tmp_path, max_shard_size="50KB")
    tokenizer.save_pretrained(tmp_path)
    next(tmp_path.glob("model-00002-*")).unlink()
    said = refused(tmp_path)
    assert "weights are damaged or incomplete" in said
    assert "model-00002" in said


def test_missing_parameters_are_never_made_up(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    cut = {name: t for name, t in weights.items() if "layers.1." not in name}
    save_file(cut, copy / "model.safetensors", metadata={"format": "pt"})
    assert "9 parameters of LlamaForCausalLM" in refused(copy)


def test_weights_of_the_head_are_never_dropped(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file(
        {**weights, "lm_head.bias": torch.ones(480)},
        copy / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert "LlamaForCausalLM would ignore (lm_head.bias)" in refused(copy)


@pytest.mark.parametrize(
    ("key", "part"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "rotary frequencies"),
        ("model.layers.0.self_attn.inv_freq", "rotary frequencies"),
        ("model.layers.0.self_attn.masked_bias", None),
        ("model.layers.0.attn.masked_bias", "causal masks"),
        ("model.layers.0.self_attn.k_scale", "scales of the key-value cache"),
        ("mtp.layers.0.weight", "layers that predict further tokens"),
        ("visual.blocks.0.weight", "vision tower"),
        ("model.layers.2.mlp.up_proj.weight", None),
        ("model.layers.0.attn.bias", None),
        ("encoder.layers.0.weight", None),
        ("score.weight", None),
    ],
)
def test_weights_elsewhere_are_left_over_only_where_they_are_harmless(
    copy: Path, key: str, part: str | None
) -> None:
    weights = load_file(copy / "model.safetensors")
    extra = torch.ones(6) if "masked" not in key else torch.tensor(-1e4)
    save_file({**weights, key: extra}, copy / "model.safetensors", metadata={"format": "pt"})
    if part is None:
        said = refused(copy)
        assert f"LlamaForCausalLM would ignore (first: {key})" in said
    else:
        [left] = left_out_of(load(copy).model)
        assert part in left
        assert left.endswith("(1 tensors)")


def test_what_is_left_out_is_told_in_the_output_and_in_the_manifest(
    copy: Path, tmp_path: Path, topics: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(copy / "model.safetensors")
    extra = {"visual.blocks.0.weight": torch.ones(6)}
    save_file({**weights, **extra}, copy / "model.safetensors", metadata={"format": "pt"})
    part = "vision tower (1 tensors)"
    got = opened(str(copy))
    assert capfd.readouterr() == ("", f"{copy}: left out: {part}\n")
    audit(got.model, Corpus.from_texts(topics[:2], got.tokenizer), out=tmp_path / "run")
    assert read_run(tmp_path / "run").key["left_out"] == [part]
    provenance = Audit.load(tmp_path / "run").provenance
    assert provenance.left_out == (part,)
    assert dict(facts_of(provenance, ""))["Left out of the model"] == part


def test_a_run_of_which_nothing_is_left_out_says_no_more_than_before(
    llama_folder: Path, tmp_path: Path, topics: list[str]
) -> None:
    got = load(llama_folder)
    done = audit(got.model, Corpus.from_texts(topics[:2], got.tokenizer), out=tmp_path / "run")
    assert "left_out" not in read_run(tmp_path / "run").key
    assert dict(facts_of(done.provenance, ""))["Left out of the model"] == "nothing"


def test_an_encoder_decoder_is_refused_though_its_decoder_loads(
    checkpoint: Callable[..., Path],
) -> None:
    import transformers as tr

    config = tr.BartConfig(
        vocab_size=480, d_model=48, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64,
        decoder_ffn_dim=64, encoder_attention_heads=4, decoder_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    folder = checkpoint(tr.BartForConditionalGeneration(config))
    weights = load_file(folder / "model.safetensors")
    shared = weights["model.shared.weight"]
    for name in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        weights[f"{name}.weight"] = shared.clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "is a BartForConditionalGeneration, an encoder-decoder" in refused(folder)
    decoder = load(checkpoint(tr.BartForCausalLM(config)))
    assert type(decoder.model).__name__ == "BartForCausalLM"


def test_a_model_with_another_task_s_head_is_refused(
    llama: Any, checkpoint: Callable[..., Path]
) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tied = LlamaConfig(**{**llama.config.to_dict(), "tie_word_embeddings": True, "pad_token_id": 0})
    assert "would ignore (first: score.weight)" in refused(
        checkpoint(LlamaForSequenceClassification(tied))
    )


def test_weights_in_float64_are_read_in_float32(
    llama: Any, checkpoint: Callable[..., Path]
) -> None:
    from transformers import LlamaForCausalLM

    wide = LlamaForCausalLM(llama.config).to(torch.float64)
    got = load(checkpoint(wide)).model
    assert got.dtype is torch.float32
    assert torch.equal(got.lm_head.weight, wide.lm_head.weight.float())
    assert left_out_of(got) == ("digits of float64 beyond float32",)


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_a_model_that_reads_images_too_is_read_on_text(
    name: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = WRAPPERS[name]().eval()
    folder = checkpoint(model)
    got = load(folder).model
    assert type(got) is type(model)
    towers = left_out_of(got)
    assert towers
    assert all("unused on text" in tower for tower in towers)
    head, ids = Head.of(got), torch.arange(20)[None]
    with torch.no_grad():
        hidden = final_hidden(got, ids)
        assert torch.equal(got(input_ids=ids).logits, model(input_ids=ids).logits)
    assert head.vocab == 480
    assert hidden.shape == (1, 20, 48)
    got.save_pretrained(tmp_path)
    stored, saved = (load_file(at / "model.safetensors") for at in (folder, tmp_path))
    assert stored.keys() == saved.keys()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in stored.items())


def test_a_model_that_reads_no_text_alone_is_refused(checkpoint: Callable[..., Path]) -> None:
    import transformers as tr

    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    config = tr.BlipConfig(
        text_config={**tower, "vocab_size": 480, "max_position_embeddings": 64},
        vision_config={**tower, "image_size": 28, "patch_size": 14},
    )
    said = refused(checkpoint(tr.BlipForConditionalGeneration(config)))
    assert "cannot be read on text alone" in said


@pytest.mark.parametrize("read", [load, load_tokenizer])
def test_code_of_a_checkpoint_never_runs_for_a_y_on_stdin(
    read: Callable[..., Any], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = copy / "sprung"
    (copy / "own.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Own: ...\n"
    )
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda _asked="": "y")
    with contextlib.suppress(UnembedError):
        read(copy)
    assert not mark.exists()


def test_models_without_a_causal_head(checkpoint: Callable[..., Path], llama: Any) -> None:
    import transformers as tr

    bare = refused(checkpoint(llama.model))
    assert "1 parameters of LlamaForCausalLM (first: lm_head.weight)" in bare
    encoder = refused(checkpoint(tr.BertModel(tr.BertConfig(**SMALL))))
    assert "6 parameters of BertLMHeadModel" in encoder
    masked = refused(checkpoint(tr.BertForMaskedLM(tr.BertConfig(**SMALL))))
    assert "is a BertForMaskedLM, which is not causal" in masked
    t5 = tr.T5Config(vocab_size=480, d_model=48, d_kv=12, d_ff=96, num_layers=1, num_heads=4)
    assert "is no causal language model" in refused(checkpoint(tr.T5ForConditionalGeneration(t5)))
    for said in (bare, encoder, masked):
        assert "output head" in said


@pytest.mark.parametrize("content", ['{"model_type": ', "{}", '{"model_type": "no-such-model"}'])
def test_a_configuration_that_is_none(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    assert "is no causal language model" in refused(copy)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_checkpoint_without_its_tokenizer(
    architecture: str, copy: Path, checkpoint: Callable[..., Path]
) -> None:
    if architecture == "GPT2LMHeadModel":
        from transformers import GPT2Config, GPT2LMHeadModel

        small = GPT2Config(vocab_size=480, n_embd=48, n_layer=1, n_head=4, n_positions=64)
        folder = checkpoint(GPT2LMHeadModel(small), tokenizer=None)
    else:
        folder = copy
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    said = refused(folder)
    assert "tokenizer" in said
    assert "tokenizer.save_pretrained" in said


def test_a_damaged_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text('{"version"')
    assert "has no tokenizer that can be loaded" in refused(copy)


def test_the_context_is_the_model_s_unless_told(llama: Any) -> None:
    assert context_of(llama) == 64
    assert context_of(llama, 32) == 32
    with pytest.raises(UnembedError, match="--context 65 is more than the 64 tokens that Llama"):
        context_of(llama, 65)


def test_a_long_context_is_taken_only_when_asked_for(llama: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        long = LlamaForCausalLM(LlamaConfig(**SMALL, max_position_embeddings=131072))
    assert context_of(long) == CONTEXT_LIMIT
    assert context_of(long, 100_000) == 100_000
    assert context_of(torch.nn.Linear(1, 1)) == CONTEXT_LIMIT
    assert context_of(torch.nn.Linear(1, 1), 4096) == 4096


def test_a_file_that_may_not_be_read_is_not_called_damaged(llama_folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(llama_folder, Path(place) / "model"))
        Path(place).chmod(0o755)
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.chmod(0o644)
        (folder / "model.safetensors").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # root may read everything
                os.seteuid(65534)
            said = refused(folder)
        finally:
            os.seteuid(user)
    assert "model.safetensors may not be read (Permission denied)" in said
    assert "chmod u+r" in said
    assert "damaged" not in said


@pytest.mark.parametrize(("given", "cause"), [(None, "has no"), (False, "says false for")])
def test_a_head_that_nothing_ties(copy: Path, given: bool | None, cause: str) -> None:
    """The weight of a tied head is not stored, and the configuration does not say that it is."""
    weights = load_file(copy / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    if given is not None:
        config["tie_word_embeddings"] = given
    (copy / "config.json").write_text(json.dumps(config))
    said = refused(copy)
    assert f"its config.json {cause} tie_word_embeddings" in said
    assert 'write "tie_word_embeddings": true' in said
    config["tie_word_embeddings"] = True
    (copy / "config.json").write_text(json.dumps(config))
    assert Head.of(load(copy).model).tied


def test_the_remedy_of_a_missing_package_is_to_install_it(copy: Path) -> None:
    if importlib.util.find_spec("sacremoses") is not None:
        pytest.skip("sacremoses is installed here")
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMTokenizer"}')
    for name, text in (("vocab.json", '{"a": 0, "b": 1}'), ("merges.txt", "#version: 0.2")):
        (copy / name).write_text(text)
    said = refused(copy)
    assert "needs the package sacremoses, which is not installed" in said
    assert said.endswith("pip install sacremoses")


@pytest.mark.parametrize(
    ("raised", "package"),
    [
        (ImportError("Using `x` requires the Absent library but it was not found"), "absent"),
        (ImportError("Install it with `pip install absent-one`"), "absent-one"),
        (ImportError("You need to install absent to use it."), "absent"),
        (ModuleNotFoundError("No module named 'absent'"), "absent"),
        (ImportError("requires the torch library"), None),
        (ValueError("something else"), None),
    ],
)
def test_packages_that_errors_ask_for(raised: Exception, package: str | None) -> None:
    assert missing_package(raised) == package
