"""Which parameters of a causal language model a refinement moves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from unembed.errors import UnembedError
from unembed.head.head import output_embedding
from unembed.models.mode import evaluating
from unembed.models.running_lists import longest_lists, probe_ids
from unembed.models.untied import is_tied
from unembed.models.untied import untie as untie_head
from unembed.models.unused_weights import unused_on_text
from unembed.training.recipe.lora import Lora, add_lora, check_peft
from unembed.training.recipe.names import SCOPES, UNTIED
from unembed.training.robustness.temperature import last_norm

LAST_BLOCKS = re.compile(r"last-([1-9]\d*)-blocks")


@dataclass(frozen=True)
class Scoped:
    """A model whose parameters in scope, and no others, require gradients.

    ``model`` is the one to train: the one given, or for ``lora`` PEFT's wrapper. ``moves`` are
    the names of the parameters in scope within it, a tied matrix by its first name. ``n_moving``
    and ``n_total`` count their entries and those of the whole model. ``tied``: head and input
    embedding are one matrix. ``words`` is a sentence of all this. ``moved_before`` are the
    parameters that required gradients before.
    """

    model: nn.Module
    scope: str
    moves: tuple[str, ...]
    n_moving: int
    n_total: int
    tied: bool
    words: str
    moved_before: tuple[str, ...]


def check_scope(scope: str, *, untie: bool = False, lora: Lora | None = None) -> None:
    """Raise UnembedError for what ``apply_scope`` refuses on any model."""
    if LAST_BLOCKS.fullmatch(scope) is None and scope not in set(SCOPES) - {SCOPES[1]}:
        raise UnembedError(
            f"scope {scope!r} is not one of {', '.join(SCOPES)} (N a number from 1, for example "
            "last-2-blocks)"
        )
    if untie and scope not in UNTIED:
        raise UnembedError(
            f"untie with scope {scope!r} changes nothing, as the head does not move: leave it out, "
            f"or take one of {', '.join(UNTIED)}"
        )
    if lora is not None and scope != "lora":
        raise UnembedError(f"scope {scope!r} takes no LoRA settings: leave them out or take lora")
    if scope == "lora":
        check_peft()


def apply_scope(
    model: nn.Module, scope: str, *, untie: bool = False, lora: Lora | None = None
) -> Scoped:
    """Let the parameters in scope require gradients, and no others.

    ``full`` is every parameter but those of towers for images or sound, which text gives no
    gradient; ``last-N-blocks`` the last N transformer blocks; ``final-norm`` the gain, and bias, of
    the norm before the head; ``head`` the output embedding, with the input embedding where the two
    are tied; ``norm+head`` both; ``lora`` PEFT's adapters, of no tower. ``untie`` first gives a
    tied head its own copy of the matrix and says so in the configuration, so that a saved model
    keeps it. Blocks, norm and towers are found by running a probe batch.

    Raises UnembedError for an unknown scope, one with nothing to train or with more blocks than the
    model has, for a head that cannot be untied, for targets of LoRA that are no linear layer or
    the head, and for a model that carries adapters; the model is then left as it was.
    Source: theory §5.
    """
    check_scope(scope, untie=untie, lora=lora)
    kind = type(model).__name__
    if hasattr(model, "peft_config"):
        raise UnembedError(
            f"{kind} carries adapters: merge them first, with plain_model(scoped), or with PEFT's "
            "merge_and_unload()"
        )
    towers = _towers(model)
    if scope == "lora":
        before = _requiring(model)
        trained, what = add_lora(model, lora or Lora(), list(towers.values()))
        wanted = {id(p) for p in trained.parameters() if p.requires_grad}
    else:
        modules, what = _in_scope(model, scope)
        _refuse_integers(model, modules)
        if untie:
            if not is_tied(model):
                raise UnembedError(
                    f"the head of {type(model).__name__} is not tied: nothing to untie, leave "
                    "untie out"
                )
            untie_head(model, "leave untie out")
        trained, before = model, _requiring(model)
        unreached = {id(p) for module in towers.values() for p in module.parameters()}
        wanted = {id(p) for module in modules for p in module.parameters()} - unreached
        if scope == "full" and towers:
            what += f" but {', '.join(towers)}, unused on text"
    for parameter in trained.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    moves = {path: p.numel() for path, p in trained.named_parameters() if id(p) in wanted}
    moving, total = sum(moves.values()), sum(p.numel() for p in trained.parameters())
    tied = is_tied(model)
    words = f"{what}: {moving:,} of {total:,} parameters"
    if scope in UNTIED and tied:
        words += "; the head is tied, so the input embedding moves with it"
    elif scope in UNTIED:
        apart = "moves apart from it" if scope == "full" else "stays"
        words += f"; the head {'was un' if untie else 'is not '}tied, the input embedding {apart}"
    return Scoped(trained, scope, tuple(moves), moving, total, tied, words, before)


def plain_model(scoped: Scoped) -> nn.Module:
    """The plain model after training: adapters merged, ``requires_grad`` as before ``apply_scope``.

    A merged model's logits are the adapted one's up to the rounding of its dtype.
    """
    model: Any = scoped.model
    if scoped.scope == "lora":
        model = model.merge_and_unload()
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(path in scoped.moved_before)
    plain: nn.Module = model
    return plain


def _towers(model: nn.Module) -> dict[str, nn.Module]:
    """What of the model no text reaches, so that it gets no gradient."""
    with evaluating(model):
        return unused_on_text(model)


def _requiring(model: nn.Module) -> tuple[str, ...]:
    return tuple(path for path, p in model.named_parameters() if p.requires_grad)


def _in_scope(model: nn.Module, scope: str) -> tuple[list[nn.Module], str]:
    """The modules whose parameters move, and a clause that says so."""
    last = LAST_BLOCKS.fullmatch(scope)
    if last is not None:
        return _last_blocks(model, int(last[1]))
    if scope == "full":
        return [model], f"all of {type(model).__name__} moves"
    head = output_embedding(model)
    if scope == "head":
        return [head], f"the head moves ({_path(model, head)})"
    norm = _final_norm(model, scope)
    if scope == "final-norm":
        return [norm], f"the final norm moves ({_path(model, norm)})"
    paths = f"{_path(model, norm)}, {_path(model, head)}"
    return [norm, head], f"the final norm and the head move ({paths})"


def _last_blocks(model: nn.Module, count: int) -> tuple[list[nn.Module], str]:
    path, blocks = _blocks(model)
    if count > len(blocks):
        raise UnembedError(
            f"scope 'last-{count}-blocks' asks for more than the {len(blocks)} blocks of "
            f"{type(model).__name__} ({path}): give at most last-{len(blocks)}-blocks"
        )
    first = len(blocks) - count
    named = f"{path}.{first}" + (f" to {path}.{len(blocks) - 1}" if count > 1 else "")
    moves = f"last {count} of {len(blocks)} blocks move" if count > 1 else "last block moves"
    return list(blocks)[first:], f"the {moves} ({named})"


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The one longest list of modules that runs in order, and its path."""
    found = longest_lists(model)
    if len(found) != 1:
        longest = max(map(len, found.values()), default=0)
        lists_run = f"several of {longest} modules ({', '.join(found)})" if found else "none"
        raise UnembedError(
            f"{type(model).__name__} should run one list of blocks in order and runs {lists_run}: "
            "take another scope"
        )
    return next(iter(found.items()))


def _final_norm(model: nn.Module, scope: str) -> nn.Module:
    """The norm before the head; one that belongs to a block is none."""
    with evaluating(model):
        norm = last_norm(model, probe_ids(model))
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if norm is None or any(norm is inner for members in lists for inner in members.modules()):
        raise UnembedError(
            f"{type(model).__name__} has no norm with a gain between its last block and its head, "
            f"so scope {scope!r} does not fit: take head or full"
        )
    return norm


def _refuse_integers(model: nn.Module, modules: list[nn.Module]) -> None:
    for module in modules:
        for parameter in module.parameters():
            if not parameter.is_floating_point():
                raise UnembedError(
                    f"{type(model).__name__} holds weights of {parameter.dtype}, which cannot be "
                    "trained: load it without quantisation, or take scope lora"
                )


def _path(model: nn.Module, module: nn.Module) -> str:
    path: str = next(path for path, inner in model.named_modules() if inner is module)
    return path
