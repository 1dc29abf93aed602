"""The output head: the map from a final hidden state to one logit per token."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unembed.errors import HeadError
from unembed.head.held_rows import HeldRows, largest, peers_of, same_storage
from unembed.head.peers import RowShare
from unembed.head.precision import Precision
from unembed.head.product import Route, float32_products
from unembed.short_repr import ShortRepr

PROBE_TOKENS = 8
PUT_ROWS = 2
"""Rows of the probe whose head outputs are replaced by known values."""
PROOF_BLOCK = 4096


@dataclass(frozen=True)
class Head(ShortRepr):
    """``logits = softcap(scale * (W h + b))`` with ``softcap(x) = c tanh(x / c)`` (theory §0).

    ``weight`` and ``bias`` keep the checkpoint's dtype and device. ``softcap`` is None where the
    model has none. ``valid`` marks the rows that are tokens: padded rows and ids that the tokenizer
    does not know are left out of every statistic, the normaliser included, as if their logit were
    minus infinity; None means that every row is a token. ``digest`` identifies all of it.

    With a ``share`` the rows are held by several processes: ``weight`` and ``bias`` are those of
    this one, ``own`` a head of them alone, and all else is of the whole head. What needs rows of
    other processes takes them by ``rows_at``, which all of them call.
    """

    weight: Float[Tensor, "rows dim"]
    bias: Float[Tensor, " rows"] | None
    scale: float
    softcap: float | None
    valid: Bool[Tensor, " vocab"] | None
    tied: bool
    digest: str
    share: RowShare | None = None

    def _phrases(self) -> Iterator[str]:
        yield self.recipe
        yield f"{self.vocab:,} × {self.dim:,} {str(self.weight.dtype).removeprefix('torch.')}"
        if self.valid is not None:
            yield f"{self.tokens:,} tokens"
        if self.share is not None:
            yield f"rows {self.share.first:,} to {self.share.stop - 1:,} held here"
        yield "tied to the input embedding" if self.tied else "not tied"

    @property
    def vocab(self) -> int:
        """Number of rows, padded ones included."""
        return int(self.weight.shape[0]) if self.share is None else self.share.rows

    @property
    def dim(self) -> int:
        """Width of the hidden state that the head reads."""
        return int(self.weight.shape[1])

    @property
    def tokens(self) -> int:
        """Number of rows that are tokens."""
        return self.vocab if self.valid is None else int(self.valid.sum())

    @property
    def first(self) -> int:
        """The id of the first row that is held here."""
        return 0 if self.share is None else self.share.first

    @property
    def own(self) -> Head:
        """The head of the rows that are held here alone, which may have no token among them."""
        if self.share is None:
            return self
        held = slice(self.share.first, self.share.stop)
        return replace(self, valid=None if self.valid is None else self.valid[held], share=None)

    def precision(self, hidden_dtype: torch.dtype | None = None) -> Precision:
        """``Precision.probe`` of these rows; where several processes hold them, one for all."""
        own = Precision.probe(self.weight, hidden_dtype)
        return own if self.share is None else own.agreed(self.share.peers)

    def rows_at(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """``weight[ids]`` of the whole head, from whichever process holds each row."""
        return self._at(self.weight, ids)

    def bias_at(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"] | None:
        """``bias[ids]`` of the whole head, None where it has none."""
        return None if self.bias is None else self._at(self.bias, ids)

    def _at(self, held: Float[Tensor, "rows ..."], ids: Int[Tensor, "*shape"]) -> Tensor:
        if self.share is None:
            return held[ids]
        flat = ids.flatten()
        own = held[flat[self.share.owns(flat)] - self.share.first]
        return self.share.collected(flat, own).view(*ids.shape, *held.shape[1:])

    def gathered(self) -> Head:
        """The same head with all its rows in this process's main memory; all of them call this.

        For what reads a head some times and not at every position. It is the head itself where one
        process holds it.
        """
        if self.share is None:
            return self
        share = self.share

        def whole(held: Tensor) -> Tensor:
            return torch.cat([rows.cpu() for rows in share.in_order(held)])

        weight, bias = whole(self.weight), None if self.bias is None else whole(self.bias)
        valid = None if self.valid is None else self.valid.cpu()
        return replace(self, weight=weight, bias=bias, valid=valid, share=None)

    def must_be_whole(self, work: str) -> None:
        """Raise HeadError where several processes hold the rows between them.

        ``work`` is what would compute something else of a part of the rows.
        """
        if self.share is not None:
            raise HeadError(
                f"{work} needs every row of the head in one process, and {self.share.peers.count} "
                "hold them between them: run it without tensor parallelism"
            )

    @property
    def recipe(self) -> str:
        """The formula of the logits in words, for manifests and reports."""
        inner = "W h" if self.bias is None else "W h + b"
        scaled = inner if self.scale == 1.0 else f"{self.scale:g} ({inner})"
        return scaled if self.softcap is None else f"softcap({scaled}, {self.softcap:g})"

    @staticmethod
    def of(model: nn.Module, token_ids: Iterable[int] | None = None) -> Head:
        """Recover the head of a causal language model and prove it on a probe batch.

        The weight and bias are those of the model's output embedding. Scale and soft-cap are read
        off the model itself: some rows of that module's output are replaced by known values, and
        what the model makes of them is fitted. Then ``softcap(scale (W h + b))`` must reproduce the
        model's own logits of the other rows, and a change of a later token must leave earlier
        hidden states alone. All that is read off one forward pass.

        Of a model that several processes hold together (tensor parallelism) all of them call this,
        each proves the rows that it holds, and the head is shared between them.

        ``token_ids`` are the ids that are tokens (the tokenizer's); None takes every row. Rows that
        the model slices off the end of its logits, as padding, are no tokens.
        Raises HeadError where there is no head, where the recipe does not reproduce the logits, or
        where the model is not causal. Source: theory §0.
        """
        module = output_embedding(model)
        held = HeldRows.of(model, module)
        with torch.no_grad(), float32_products("ieee"):
            probe = _Probe.of(model, module)
            scale, softcap, kept = _recover_transform(model, held.vocab, probe)
            _prove_recipe(model, held, probe, scale, softcap)
            _prove_causal(model, probe)
        if token_ids is None and kept < held.vocab:
            token_ids = range(kept)
        valid = None if token_ids is None else _valid_rows(token_ids, held, kept)
        inputs = _input_embedding(model)
        tied = inputs is not None and same_storage(inputs.weight, module.weight)
        return Head.from_parts(held.weight, held.bias, scale, softcap, valid, tied, held.share)

    @staticmethod
    def from_parts(
        weight: Float[Tensor, "rows dim"],
        bias: Float[Tensor, " rows"] | None = None,
        scale: float = 1.0,
        softcap: float | None = None,
        valid: Bool[Tensor, " vocab"] | None = None,
        tied: bool = False,
        share: RowShare | None = None,
    ) -> Head:
        """A head from its parts, with the digest computed and the shapes checked.

        With a ``share`` all processes call this, each with its own rows and the whole ``valid``;
        the digest is that of the whole head.
        """
        if weight.ndim != 2 or not weight.is_floating_point():
            raise HeadError(
                f"the head's weight must be a floating matrix, got {weight.dtype} of shape "
                f"{tuple(weight.shape)}: load the checkpoint without weight quantisation"
            )
        if scale <= 0 or (softcap is not None and softcap <= 0):
            raise HeadError(f"scale and softcap must be positive, got {scale} and {softcap}")
        rows = weight.shape[0] if share is None else share.rows
        if share is not None and len(weight) != share.stop - share.first:
            raise HeadError(f"{len(weight)} rows, of a share of {share.stop - share.first}")
        if valid is not None and len(valid) != rows:
            raise HeadError(f"valid says of {len(valid)} rows whether they are tokens, of {rows}")
        tokens = rows if valid is None else int(valid.sum())
        if tokens < 2:
            raise HeadError(f"a head needs at least two tokens to decide between, got {tokens}")
        head = Head(weight, bias, scale, softcap, valid, tied, "", share)
        digest = head.hash_of_rows()
        digest.update(b"none" if valid is None else bytes_of(valid))
        return replace(head, digest=digest.hexdigest())

    def hash_of_rows(self) -> Any:
        """A SHA-256 over all that the logits are made of, whatever rows are tokens."""
        digest = hashlib.sha256(f"{self.scale!r} {self.softcap!r} {self.weight.dtype}".encode())
        for tensor in (self.weight, self.bias):
            if tensor is None:
                digest.update(b"none")
                continue
            for some in [tensor] if self.share is None else self.share.in_order(tensor):
                digest.update(bytes_of(some))
        return digest

    def sharpened(self, factor: float) -> Head:
        """The head with all its logits times ``factor``; its soft-cap, if any, rises with them.

        ``cap tanh(x / cap)`` times f is ``(f cap) tanh(f x / (f cap))``, so bias and soft-cap
        change nothing, and the product ``W h`` keeps its bits. A power of two then rounds nothing,
        and no decision changes. Another factor rounds each logit once more, which lets none pass
        another but can make a tie of two that lie one rounding step apart (1e-7 of their size; with
        a bias or a soft-cap, a few), and a tie goes to the lowest id.
        Raises HeadError for a factor that is not positive. Source: theory §5.
        """
        if not 0 < factor < math.inf:
            raise HeadError(f"factor {factor} scales no logits: give a positive number")
        cap = None if self.softcap is None else self.softcap * factor
        return Head.from_parts(
            self.weight, self.bias, self.scale * factor, cap, self.valid, self.tied, self.share
        )


class _HeadReachedError(Exception):
    """Carries the head's input out of a forward pass that stops there."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def output_embedding(model: nn.Module) -> Any:
    """The module that turns final hidden states into logits, or HeadError."""
    find: Any = getattr(model, "get_output_embeddings", lambda: None)
    module = find()
    if module is None or not isinstance(getattr(module, "weight", None), Tensor):
        raise HeadError(
            f"{type(model).__name__} has no output head (no output embeddings): "
            "give a causal language model such as LlamaForCausalLM"
        )
    return module


def final_hidden(
    model: nn.Module, input_ids: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq dim"]:
    """The head's input for every position, in the model's dtype; no logits are computed.

    The forward pass is stopped at the door of the output embedding, which finds the right tensor
    whatever the architecture does before its head (final norms, projections, multipliers). No
    attention mask is passed: pad on the right, and causality keeps padding out of real positions.
    """

    def stop(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise _HeadReachedError(args[0])

    handle = output_embedding(model).register_forward_pre_hook(stop)
    try:
        model(input_ids=input_ids, use_cache=False)
    except _HeadReachedError as reached:
        return reached.hidden.to(output_embedding(model).weight.device)
    finally:
        handle.remove()
    raise HeadError(f"{type(model).__name__} computed its output without calling its head")


@torch.no_grad()
def faster_body_route(model: nn.Module, precision: Precision) -> Route:
    """The route of float32 products for the model's body too, where it is as exact there.

    The hidden states of a probe batch by that route must be those of the plain one: up to
    float32 rounding (1e-5 of the largest) in float32, to the bit in a narrower dtype, whose own
    products the route leaves alone. Else the body keeps the plain route.
    """
    if precision.float32_route == "ieee":
        return "ieee"
    ids = _probe_ids(model)
    with float32_products("ieee"):
        plain = final_hidden(model, ids)
    with float32_products(precision.float32_route):
        faster = final_hidden(model, ids)
    if plain.dtype == torch.float32:
        same = bool((faster - plain).abs().max() <= 1e-5 * plain.abs().max())
    else:
        same = torch.equal(faster, plain)
    (differs,) = largest(peers_of(model), float(not same))
    return "ieee" if differs else precision.float32_route


def bytes_of(tensor: Tensor) -> memoryview:
    """The raw bytes of a tensor in row-major order, for digests."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _input_embedding(model: nn.Module) -> Any:
    find: Any = getattr(model, "get_input_embeddings", lambda: None)
    return find()


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its tokens: where its input embedding lies, or where its head does."""
    embedding = _input_embedding(model)
    weight = output_embedding(model).weight if embedding is None else embedding.weight
    return (output_embedding(model).weight if weight.is_meta else weight).device  # type: ignore[no-any-return]


def _probe_ids(model: nn.Module) -> Int[Tensor, "batch seq"]:
    embedding = _input_embedding(model)
    rows = int(embedding.weight.shape[0]) if embedding is not None else 2
    spread = torch.arange(1, PROBE_TOKENS + 1) * 7919 % min(rows, 1 << 15)
    return spread[None].to(input_device(model))


@dataclass(frozen=True)
class _Probe:
    """One forward pass of the probe's tokens, and below them the same with others in the second
    half: the head's input, and the logits that the model made of the head's output, whose first
    ``PUT_ROWS`` rows were replaced by ``_known_outputs``.
    """

    hidden: Float[Tensor, "positions dim"]
    logits: Float[Tensor, "positions vocab"]

    @staticmethod
    def of(model: nn.Module, module: Any) -> _Probe:
        """Read the model once; HeadError where it gives not one row of logits for each token."""
        ids = _probe_ids(model)
        half = PROBE_TOKENS // 2
        changed = torch.cat([ids[:, :half], ids[:, half:].roll(1, 1)], dim=1)
        hidden: list[Tensor] = []
        rows: list[int] = []

        def replace(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            hidden.append(args[0].flatten(0, -2).to(output.device))
            replaced = output.clone(memory_format=torch.contiguous_format)
            flat = replaced.view(-1, output.shape[-1])
            rows.append(len(flat))
            flat[:PUT_ROWS] = _known_outputs(flat.shape[1])[: len(flat)].to(flat)
            return replaced

        handle = module.register_forward_hook(replace)
        try:
            output = model(input_ids=torch.cat([ids, changed]), use_cache=False)
        finally:
            handle.remove()
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise HeadError(
                f"{type(model).__name__} returns no logits: give a causal language model"
            )
        logits, tokens = logits.flatten(0, -2), 2 * PROBE_TOKENS
        if rows[:1] != [len(logits)] or len(logits) != tokens:
            raise HeadError(
                f"{type(model).__name__} calls its head on {sum(rows)} rows for {len(logits)} "
                f"logits at {tokens} tokens (as one that predicts several tokens ahead does), so "
                "that nothing says which row is a token's decision: give a model that predicts the "
                "next token alone"
            )
        return _Probe(hidden[0], logits)


def _known_outputs(height: int) -> Float[Tensor, "rows vocab"]:
    """Signed powers of two from 2^-6 to 2^13 in turn, exact in every floating dtype.

    Small ones give the slope, the largest one shows whether there is a ceiling.
    """
    powers = 2.0 ** torch.arange(-6, 14)
    grid = torch.cat([powers, -powers])
    return grid[torch.arange(PUT_ROWS * height) % len(grid)].view(PUT_ROWS, height)


def _recover_transform(
    model: nn.Module, height: int, probe: _Probe
) -> tuple[float, float | None, int]:
    """Scale, soft-cap and number of logits, from what the model makes of known head outputs."""
    got = probe.logits[:PUT_ROWS]
    kept = int(got.shape[-1])
    if kept > height:
        raise HeadError(
            f"{type(model).__name__} returns {kept} logits from a head of "
            f"{height} rows; only heads with one logit per row can be measured"
        )
    tolerance = 4 * torch.finfo(got.dtype).eps
    put = _known_outputs(height)[:, :kept].flatten().double()
    seen = got.flatten().double().cpu()
    low, high = 2.0**-2, 2.0**13
    at_low, at_high = (float(seen[put == power].median()) for power in (low, high))
    constants = _constants_of(model)
    slope, softcap = at_low / low, None
    if 0 < at_high < 0.9 * slope * high:
        softcap = _snap(at_high, constants, tolerance)
        slope = softcap * math.atanh(min(at_low / softcap, 0.999)) / low
    scale = _snap(slope, constants, tolerance)
    expected = scale * put
    if softcap is not None:
        expected = softcap * torch.tanh(expected / softcap)
    off = ((seen - expected).abs() > 4 * tolerance * (1 + expected.abs())).float().mean()
    if scale <= 0 or float(off) > 0:
        raise HeadError(
            f"{type(model).__name__} transforms its head's output in a way that is neither a scale "
            f"nor a soft-cap (slope {slope:.4g}, {float(off):.1%} of the logits differ); "
            "its decisions cannot be measured exactly"
        )
    return scale, softcap, kept


def _constants_of(model: nn.Module) -> list[float]:
    """Every positive number in the configuration, and its reciprocal: what a scale may be."""
    config = getattr(model, "config", None)
    values = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    nested = [v for value in values.values() if isinstance(value, dict) for v in value.values()]
    numbers = [float(v) for v in [*values.values(), *nested] if type(v) in (int, float) and v > 0]
    return [1.0, *numbers, *(1 / number for number in numbers)]


def _snap(measured: float, constants: list[float], tolerance: float) -> float:
    """The configured constant that the measured one is a rounding of, if there is one."""
    nearest = min(constants, key=lambda constant: abs(constant - measured))
    return nearest if abs(nearest - measured) <= tolerance * abs(measured) else measured


def _prove_recipe(
    model: nn.Module, held: HeldRows, probe: _Probe, scale: float, softcap: float | None
) -> None:
    hidden = probe.hidden[PUT_ROWS:]
    theirs = probe.logits[PUT_ROWS:, held.first : held.first + len(held.weight)]
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    hidden = hidden.to(dtype)
    size = worst = 0.0
    for start in range(0, theirs.shape[-1], PROOF_BLOCK):
        span = slice(start, min(start + PROOF_BLOCK, theirs.shape[-1]))
        ours = hidden @ held.weight[span].to(dtype).T
        ours = (ours if held.bias is None else ours + held.bias[span].to(dtype)) * scale
        if softcap is not None:
            ours = softcap * torch.tanh(ours / softcap)
        own = theirs[:, span].to(dtype)
        finite = torch.isfinite(own) & torch.isfinite(ours)
        if bool(finite.any()):
            size = max(size, float(own[finite].abs().max()))
            worst = max(worst, float((ours - own)[finite].abs().max()))
    size, worst = largest(None if held.share is None else held.share.peers, size, worst)
    if worst > max(8 * torch.finfo(probe.hidden.dtype).eps, 1e-4) * size:
        raise HeadError(
            f"the recovered head disagrees with {type(model).__name__}'s own logits by {worst:.3g} "
            f"at |logit| up to {size:.3g}; its decisions cannot be measured exactly"
        )


def _prove_causal(model: nn.Module, probe: _Probe) -> None:
    half = PROBE_TOKENS // 2
    before, after = (row[:half] for row in probe.hidden.split(PROBE_TOKENS))
    size = float(before.float().abs().max())
    moved = float((before.float() - after.float()).abs().max())
    size, moved = largest(peers_of(model), size, moved)
    if moved > max(8 * torch.finfo(before.dtype).eps, 1e-5) * size:
        raise HeadError(
            f"{type(model).__name__} is not causal: changing a later token moved earlier hidden "
            f"states by {moved:.3g} of {size:.3g}; give a causal language model, not an encoder"
        )


def _valid_rows(
    token_ids: Iterable[int], held: HeldRows, kept: int
) -> Bool[Tensor, " vocab"] | None:
    ids = torch.as_tensor([token for token in set(token_ids) if token < kept], dtype=torch.long)
    valid = torch.zeros(held.vocab, dtype=torch.bool, device=held.weight.device)
    valid[ids.to(held.weight.device)] = True
    return None if bool(valid.all()) else valid
