"""Checkpoints that hold quantised weights: refused before loading, or made plain after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unembed.errors import UnembedError
from unembed.models.weight_files import StoredTensor


@dataclass(frozen=True)
class Format:
    """A way to store quantised weights: what reading it takes, as modules and as pip names them.

    ``dequantize`` says that transformers makes the weights plain itself when asked to.
    """

    modules: tuple[str, ...] = ()
    install: str = ""
    dequantize: bool = False


FORMATS = {
    "torchao": Format(("torchao",), "'unembed[quant]'"),
    "compressed-tensors": Format(
        ("compressed_tensors",), "compressed-tensors accelerate", dequantize=True
    ),
    "bitsandbytes": Format(("bitsandbytes", "accelerate"), "bitsandbytes accelerate"),
    "gptq": Format(("gptqmodel", "optimum"), "gptqmodel optimum"),
    "awq": Format(("gptqmodel", "accelerate"), "gptqmodel accelerate"),
    "auto-round": Format(("auto_round",), "auto-round"),
    "quanto": Format(("optimum.quanto", "accelerate"), "optimum-quanto accelerate"),
    "fp8": Format(("accelerate",), "accelerate", dequantize=True),
    "mxfp8": Format(("accelerate",), "accelerate", dequantize=True),
    "mxfp4": Format(("accelerate",), "accelerate", dequantize=True),
    "fbgemm_fp8": Format(("fbgemm_gpu", "accelerate"), "fbgemm-gpu accelerate"),
    "bitnet": Format(("accelerate",), "accelerate"),
    "aqlm": Format(("aqlm", "accelerate"), "'aqlm[cpu]' accelerate"),
    "vptq": Format(("vptq", "accelerate"), "vptq accelerate"),
    "spqr": Format(("spqr_quant", "accelerate"), "spqr-quant accelerate"),
    "quark": Format(("quark",), "amd-quark"),
    "eetq": Format(("kernels", "accelerate"), "kernels accelerate"),
    "higgs": Format(("flute",), "flute-kernel"),
    "fp_quant": Format(("fp_quant",), "fp-quant"),
    "gguf": Format(("gguf", "accelerate"), "gguf accelerate", dequantize=True),
}
"""The formats whose packages are known, by ``quant_method``. What no module is named for here is
left to transformers, which says what it lacks."""

REFUSED = {
    "hqq": "transformers reads no HQQ checkpoint yet: load it with the package hqq, dequantise "
    "its layers, and save it with model.save_pretrained",
}
SCALES = re.compile(
    r"(^|[._])(weight_scale(_inv|_2)?|weight_zero_point|scales|qweight|qzeros|g_idx|absmax"
    r"|quant_map|quant_state.*|SCB|weight_packed|weight_qdata|weight_format)$"
)
"""Names that quantised weights and their scales have in the formats above."""
OTHER_FILES = {"quantize_config.json": "GPTQ", "hf_quant_config.json": "ModelOpt"}
"""Files of formats that do not write into config.json, with their names."""


def method_of(name: str, config: Any) -> str | None:
    """The format of a checkpoint's quantised weights by its configuration; None for plain ones.

    Raises UnembedError for an unknown format, for one that cannot be read, and where the package
    that reads it is missing.
    """
    settings = _settings(config)
    if settings is None:
        return None
    import transformers.quantizers.auto as library

    auto: Any = library
    method = settings.get("quant_method")
    if settings.get("load_in_8bit") or settings.get("load_in_4bit"):
        method = "bitsandbytes"
    method = str(getattr(method, "value", method))
    known = {one.split("_4bit")[0].split("_8bit")[0] for one in auto.AUTO_QUANTIZER_MAPPING}
    if method == "None":
        raise UnembedError(
            f"{name} has a quantization_config without quant_method, so nothing says how to scale "
            "its weights: put the format's name back in config.json"
        )
    if method not in known:
        raise UnembedError(
            f"{name} says that its weights are quantised by {method!r}, which transformers does "
            f"not know (it knows {', '.join(sorted(known))}): save it again dequantised"
        )
    if method in REFUSED:
        raise UnembedError(f"{name} is quantised by {method}: {REFUSED[method]}")
    needs_package(name, method)
    return method


def needs_package(name: str, method: str) -> None:
    """Raise UnembedError where a package that reads this format is not installed."""
    form = FORMATS.get(method, Format())
    missing = [module for module in form.modules if not _is_there(module)]
    if missing:
        raise UnembedError(
            f"{name} holds weights in the format {method}, which needs "
            f"{' and '.join(missing)}, not installed here: pip install {form.install}"
        )


def ask_for_plain_weights(method: str | None, config: Any) -> None:
    """Let transformers make the weights plain as it loads them, in the formats where it can."""
    settings = _settings(config)
    if method is not None and settings is not None and FORMATS.get(method, Format()).dequantize:
        settings["dequantize"] = True
        settings.pop("run_compressed", None)


def refuse_unscaled(name: str, stored: tuple[StoredTensor, ...]) -> None:
    """Refuse quantised weights that no configuration says how to scale.

    Raises UnembedError for integer or 8-bit weights and for scales of any.
    """
    found = [
        one
        for one in stored
        if SCALES.search(one.name) or (one.needs_scale and one.name.endswith("weight"))
    ]
    if found:
        folder = Path(name)
        beside = [
            f"{file} is {form}'s" for file, form in OTHER_FILES.items() if (folder / file).exists()
        ]
        why = f" ({', '.join(beside)})" if beside else ""
        raise UnembedError(
            f"{name} holds quantised weights (first: {found[0].name}, {found[0].dtype}) but its "
            f"config.json has no quantization_config that says how to scale them{why}: put that "
            "back, or save the checkpoint again dequantised"
        )


def refuse_unread(name: str, model: Any, stored: tuple[StoredTensor, ...]) -> None:
    """Refuse integers of the files that became parameters as if they were the weights' values.

    Raises UnembedError for a floating parameter whose stored tensor needs a scale.
    """
    parameters = dict(model.named_parameters())
    for one in stored:
        parameter = parameters.get(one.name)
        if one.needs_scale and parameter is not None and parameter.is_floating_point():
            raise UnembedError(
                f"{name} holds {one.name} as {one.dtype}, and nothing scales it back to the "
                f"{str(parameter.dtype).removeprefix('torch.')} that the model computes in: save "
                "the checkpoint again dequantised"
            )


@torch.no_grad()
def make_plain(name: str, model: Any, method: str) -> tuple[Any, tuple[str, ...]]:
    """The model with its quantised weights dequantised, and what that leaves out, in words.

    Weights of tensor types that say how (torchao, quanto) and modules that do (bitsandbytes) are
    dequantised by their own package, exactly in the model's precision. Modules of packed integers
    that say nothing (GPTQ, AWQ) run as they are. A rounding of activations is left out and named.
    Raises UnembedError where a weight is neither.
    """
    rounds = sorted({*_rounded_activations(model)})
    if method == "bitsandbytes":
        model = model.dequantize(dtype=model.dtype)
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if type(parameter) is not nn.Parameter or type(parameter.data) is not Tensor:
                plain = _dequantized(name, key, parameter)
                setattr(module, key, nn.Parameter(plain, requires_grad=False))
    if all(parameter.is_floating_point() for parameter in model.parameters()):
        _forget_format(model)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
    return model, tuple(f"rounding of activations by {one}" for one in rounds)


def _dequantized(name: str, key: str, parameter: Any) -> Tensor:
    try:
        plain = parameter.dequantize()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        plain = parameter
    if type(plain) is nn.Parameter:
        plain = plain.data
    if type(plain) is not Tensor or not plain.is_floating_point():
        raise UnembedError(
            f"{name}: {key} is a {type(parameter).__name__}, which cannot be made a plain weight: "
            "save the checkpoint again dequantised"
        )
    return plain


def _rounded_activations(model: nn.Module) -> Iterator[str]:
    """Names of the weights' types that round what they are multiplied with."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if getattr(parameter, "act_quant_kwargs", None) is not None:
                yield type(parameter).__name__
        if type(module).__name__ == "Linear8bitLt":
            yield "LLM.int8"


def _forget_format(model: Any) -> None:
    """Let a plain model be saved as one, by its class's own names of weights."""
    model._weight_conversions = None
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    for config in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        if getattr(config, "quantization_config", None) is not None:
            del config.quantization_config


def _settings(config: Any) -> dict[str, Any] | None:
    """The configuration's word on quantisation, of the whole or of its text part."""
    for one in (config, config.get_text_config()):
        found = getattr(one, "quantization_config", None)
        if found is not None:
            return found if isinstance(found, dict) else dict(found.to_dict())
    return None


def _is_there(module: str) -> bool:
    """Whether a module can be imported, by its top package first."""
    top = module.split(".")[0]
    return find_spec(top) is not None and (top == module or find_spec(module) is not None)
