"""Load a checkpoint and its tokenizer, safely: safetensors only, no code from the checkpoint."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from unembed.errors import UnembedError
from unembed.models.causes import missing_package, refuse_unreadable, untied_head
from unembed.models.devices.placement import DeviceMap, Placement
from unembed.models.formats import (
    ask_for_plain_weights,
    make_plain,
    method_of,
    needs_package,
    refuse_unread,
    refuse_unscaled,
)
from unembed.models.names import DTYPES
from unembed.models.size import refuse_larger
from unembed.models.stored.one_block import beside_other_blocks, with_one_block
from unembed.models.unused_weights import refuse_unused, set_left_out, towers_unused_on_text
from unembed.models.weight_files import stored_tensors
from unembed.runs.phases import START, current_phases
from unembed.short_repr import ShortRepr

CONTEXT_LIMIT = 2048
"""Longest context by default: attention over a full window of 128k tokens would cost too much.
``--context`` asks for more."""

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
WIDE = (torch.float64, "float64")
"""A precision beyond float32, in which nothing is measured."""
WIDE_LEFT_OUT = "digits of float64 beyond float32"
REMEDY = "give a causal language model with its output head and its tokenizer"
TOKENIZER_REMEDY = "save the model's own there with tokenizer.save_pretrained"


@dataclass(frozen=True)
class Checkpoint(ShortRepr):
    """A causal language model in evaluation mode with its tokenizer.

    ``stored_as`` is the format of its quantised weights, which are plain now; None: they were.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    stored_as: str | None = None

    def _phrases(self) -> Iterator[str]:
        some = next(self.model.parameters())
        yield self.name
        yield type(self.model).__name__
        yield f"{sum(p.numel() for p in self.model.parameters()):,} parameters"
        yield f"{str(some.dtype).removeprefix('torch.')} on {some.device}"
        yield f"{len(self.tokenizer):,} tokens"


def load(
    name: str | Path,
    *,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    one_block: bool = False,
) -> Checkpoint:
    """Load a causal language model from a local folder or the hub.

    ``dtype`` "auto" keeps the checkpoint's own precision. ``device`` None takes a GPU if there is
    one. ``device_map`` "auto" spreads the model over all devices, and what they cannot hold over
    memory and disk, by accelerate; or it is transformers' map of modules to devices. Within
    ``tensor_parallel`` the model is split over the processes of a team. With ``one_block`` the body
    is its first block alone, and no weight of the others is read: for what needs the head and what
    lies before it. Raises UnembedError where the folder is missing, holds no causal language model,
    lacks trained weights for some of it, holds pickled or damaged weights, or cannot be placed so.
    """
    name = str(name)
    if dtype not in DTYPES:
        raise UnembedError(f"--dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    place = Placement.of(device, device_map)
    config = configuration_of(name, revision, trust_remote_code)
    import transformers

    source = _source(name, revision, trust_remote_code)
    with quietly():
        with _one_line(name, "has no tokenizer that can be loaded", TOKENIZER_REMEDY):
            tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
            _refuse_empty(name, tokenizer)
        stored = stored_tensors(Path(name))
        method = "gguf" if "gguf_file" in source else method_of(name, config)
        if method is None:
            refuse_unscaled(name, stored)
        ask_for_plain_weights(method, config)
        wrapper = _is_wrapper(config)
        auto = automatic_class(config)
        if one_block:
            config = with_one_block(config)
        refuse_larger(name, config, auto, stored, plain=method is None)
        placed = place.loading(name, config, auto, method)
        with _one_line(name, *_failure(method)), _without_bars(method):
            loaded = auto.from_pretrained(
                **source,
                **_precision(dtype, config, method),
                **placed,
                config=config,
                use_safetensors=None if method == "gguf" else True,
                output_loading_info=True,
            )
            model, report = loaded
            wide = stored_dtype(config) in WIDE and model.dtype not in WIDE
            left_out: tuple[str, ...] = (WIDE_LEFT_OUT,) if wide and dtype == "auto" else ()
            if method is not None:
                model, rounded = make_plain(name, model, method)
                left_out += rounded
    _refuse_unmatched(name, model, report)
    if method is None:
        refuse_unread(name, model, stored)
    unexpected, held = report["unexpected_keys"], stored
    if one_block:
        unexpected = beside_other_blocks(model, unexpected)
        kept = set(beside_other_blocks(model, (one.name for one in stored)))
        held = tuple(one for one in stored if one.name in kept)
    left_out += refuse_unused(name, model, unexpected, held)
    model = place.put(name, model).eval()
    if wrapper:
        left_out += towers_unused_on_text(name, model)
    set_left_out(model, left_out)
    return Checkpoint(name, model, tokenizer, method)


def configuration_of(
    name: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    *,
    weights: bool = True,
) -> Any:
    """A checkpoint's configuration, without its weights. Raises UnembedError as ``load`` does.

    Without ``weights`` a folder that holds none of them yet will do.
    """
    with _one_line(name, "cannot be read", "give the folder of a checkpoint that you may read"):
        _check_file_names(name, weights)
    with current_phases()(START):
        import transformers

    source = _source(name, revision, trust_remote_code)
    with quietly(), _one_line(name, "is no causal language model that can be loaded"):
        config = transformers.AutoConfig.from_pretrained(**source)
        _refuse_masked(name, config)
        with current_phases()(START):  # the first to import the model's own class
            _refuse_encoder_decoder(name, config)
    return config


def load_tokenizer(name: str | Path) -> Any:
    """The tokenizer of a checkpoint, without its weights. Raises UnembedError as ``load`` does."""
    import transformers

    name = str(name)
    with quietly(), _one_line(name, "has no tokenizer that can be loaded"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(**_source(name))
        _refuse_empty(name, tokenizer)
    return tokenizer


def context_of(model: nn.Module, asked: int | None = None) -> int:
    """The context in tokens: the one asked for, or the model's own, at most CONTEXT_LIMIT.

    Raises UnembedError if more is asked for than the model's configuration allows.
    """
    limit = most_context(model)
    if asked is None:
        return min(limit or CONTEXT_LIMIT, CONTEXT_LIMIT)
    if limit is not None and asked > limit:
        raise UnembedError(
            f"--context {asked} is more than the {limit} tokens that {type(model).__name__} is "
            f"configured for: give at most {limit}"
        )
    return asked


def most_context(model: nn.Module) -> int | None:
    """The most tokens that a model's configuration allows, None where it does not say."""
    return configured_context(getattr(model, "config", None))


def configured_context(config: Any) -> int | None:
    """The most tokens that a configuration allows, None where it does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = (getattr(text, name, None) for name in CONTEXT_NAMES)
    return next((n for n in limits if isinstance(n, int) and n > 1), None)


def token_ids(tokenizer: Any) -> list[int]:
    """Every id that the tokenizer can produce or decode."""
    return sorted({int(i) for i in tokenizer.get_vocab().values()})


def _check_file_names(name: str, weights: bool) -> None:
    """Refuse what can be recognised from the file names, before anything is read."""
    folder = Path(name)
    if gguf_file(name) is not None:
        needs_package(name, "gguf")
        return
    if folder.is_file():
        raise UnembedError(f"{name} is a file: give the folder that holds the checkpoint")
    if not folder.is_dir():
        looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
        if looks_local:
            raise UnembedError(f"{name}: no such model folder")
        return
    if not (folder / "config.json").exists():
        raise UnembedError(f"{name} holds no config.json: give a Hugging Face checkpoint folder")
    if not weights:
        return
    if not any(folder.glob("*.safetensors")):
        refuse_pickles(folder)
        raise UnembedError(f"{name} holds no .safetensors weights")
    refuse_unreadable(folder)


def refuse_pickles(folder: Path) -> None:
    """Raise UnembedError where a folder without safetensors holds pickled weights."""
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth"))
    if pickled:
        raise UnembedError(
            f"{folder} holds its weights only as a pickle ({pickled[0]}), which can run code when "
            "loaded: save it again with model.save_pretrained, which writes safetensors"
        )


def _failure(method: str | None) -> tuple[str, str]:
    """What it means that a model cannot be loaded, and what to do."""
    if method is None:
        return "is no causal language model that can be loaded", REMEDY
    return (
        f"holds weights in the format {method} that cannot be loaded here",
        "save it again dequantised",
    )


@contextlib.contextmanager
def _without_bars(method: str | None) -> Iterator[None]:
    """Keep the progress bar of a GGUF file off stderr, which no setting switches off."""
    with (
        contextlib.redirect_stderr(io.StringIO()) if method == "gguf" else contextlib.nullcontext()
    ):
        yield


def _source(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Where transformers finds a checkpoint: a folder, a name on the hub, or one GGUF file.

    Whether its code may run is always said, since transformers asks on the terminal otherwise.
    """
    place: dict[str, Any] = {"pretrained_model_name_or_path": name}
    file = gguf_file(name)
    if file is not None:
        place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    return {**place, "revision": revision or "main", "trust_remote_code": trust_remote_code}


def gguf_file(name: str) -> Path | None:
    """The GGUF file that this is, or the only one of a folder without another checkpoint."""
    path = Path(name)
    if path.suffix == ".gguf" and path.is_file():
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(path.glob("*.gguf"))
    if len(files) > 1:
        raise UnembedError(
            f"{name} holds {len(files)} GGUF files: give one of them, such as {files[0]}"
        )
    return files[0] if files else None


def _precision(dtype: str, config: Any, method: str | None) -> dict[str, Any]:
    """The precision to load in, and how a GGUF file's weights are made plain."""
    import transformers

    asked: Any = "auto" if dtype == "auto" else getattr(torch, dtype)
    if asked == "auto" and stored_dtype(config) in WIDE:
        asked = torch.float32
    if method != "gguf":
        return {"dtype": asked}
    plain: Any = transformers.GgufConfig(dequantize=True)
    return {
        "dtype": torch.float32 if asked == "auto" else asked,
        "quantization_config": plain,
    }


def stored_dtype(config: Any) -> Any:
    """The precision that a configuration states, of the whole or of its text part."""
    return getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)


def automatic_class(config: Any) -> Any:
    """The class of transformers' own that makes a configuration's model."""
    import transformers

    return _wrapper_class() if _is_wrapper(config) else transformers.AutoModelForCausalLM


def _wrapper_class() -> Any:
    """The class that makes models which read text beside images or sound."""
    import transformers as library

    transformers: Any = library
    several = getattr(transformers, "AutoModelForMultimodalLM", None)
    return several or transformers.AutoModelForImageTextToText


def _is_wrapper(config: Any) -> bool:
    """Whether the checkpoint is a language model with towers for images or sound around it.

    Its own class is taken, so that what is saved of it keeps its towers.
    """
    import transformers as library

    transformers: Any = library
    made = _wrapper_class()._model_mapping
    if type(config) not in made:
        return False
    named = (config.architectures or [None])[0]
    causal = type(config) in transformers.AutoModelForCausalLM._model_mapping
    return named == made[type(config)].__name__ if causal else True


def _refuse_encoder_decoder(name: str, config: Any) -> None:
    """A decoder loads out of an encoder-decoder's file, and would be measured without its text."""
    import transformers as library

    transformers: Any = library
    mapping = transformers.AutoModelForCausalLM._model_mapping
    causal = {mapping[type(config)].__name__} if type(config) in mapping else set()
    named = (config.architectures or ["model"])[0]
    if getattr(config, "is_encoder_decoder", False) and named not in causal:
        raise UnembedError(
            f"{name} is a {named}, an encoder-decoder, which is no causal language model: {REMEDY}"
        )


def _refuse_masked(name: str, config: Any) -> None:
    """An encoder with a masked-language head loads as a causal one, and would be measured wrong."""
    masked = [a for a in config.architectures or () if "MaskedLM" in a or "PreTraining" in a]
    if masked:
        raise UnembedError(f"{name} is a {masked[0]}, which is not causal: {REMEDY}")


def _refuse_empty(name: str, tokenizer: Any) -> None:
    """Some tokenizer classes load from a folder without files, as ones that know no token."""
    if len(tokenizer.get_vocab()) - len(tokenizer.all_special_ids) < 2:
        raise UnembedError(f"{name} holds no tokenizer files: {TOKENIZER_REMEDY}")


def _refuse_unmatched(name: str, model: Any, report: dict[str, Any]) -> None:
    """Refuse parameters without trained weights, and weights of the head that are not used."""
    head = model.get_output_embeddings()
    inside = next((path for path, module in model.named_modules() if module is head), None)
    untrained = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if untrained:
        cause = untied_head(name, untrained, inside)
        raise UnembedError(
            f"{name} has no trained weights for {len(untrained)} parameters of "
            f"{type(model).__name__} (first: {untrained[0]}): "
            f"{REMEDY if cause is None else f'{cause} {REMEDY}'}"
        )
    unused = sorted(key for key in report["unexpected_keys"] if key.startswith(f"{inside}."))
    if unused:
        raise UnembedError(
            f"{name} has weights of the output head that {type(model).__name__} would ignore "
            f"({', '.join(unused)}), so its decisions would be measured wrong: save the checkpoint "
            "again in a class that uses them"
        )


@contextlib.contextmanager
def _one_line(name: str, failure: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn what loading raises into one line with a remedy."""
    try:
        yield
    except UnembedError:
        raise
    except (SafetensorError, FileNotFoundError) as error:
        raise UnembedError(
            f"{name}: its weights are damaged or incomplete ({_first_line(error)}): "
            "copy or download the checkpoint again"
        ) from error
    except Exception as error:
        package = missing_package(error)
        if package is not None:
            raise UnembedError(
                f"{name} needs the package {package}, which is not installed "
                f"({_first_line(error)}): pip install {package}"
            ) from error
        where = "" if Path(name).is_dir() else ", nor is it a folder here"
        raise UnembedError(f"{name} {failure}{where} ({_first_line(error)}): {remedy}") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' warnings and progress bars off stderr; errors are still raised."""
    import transformers as library

    transformers: Any = library
    level = transformers.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    try:
        with hushed():
            yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep warnings off stderr, such as those of libraries about kernels that a machine lacks."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else repr(error)
