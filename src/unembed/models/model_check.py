"""What can be said of a model before any text: what is recovered, what is proved, what to mind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unembed.errors import HeadError
from unembed.models.checkpoint import CONTEXT_LIMIT, Checkpoint, context_of, most_context, token_ids
from unembed.models.depths import Depths, Tail
from unembed.models.mode import restores_mode
from unembed.models.model_pass import ModelPass, ReadingOptions
from unembed.models.unused_weights import left_out_of
from unembed.runs.provenance import describe_device
from unembed.runs.table import as_text
from unembed.short_repr import ShortRepr
from unembed.text.batches import MOST_PADDING
from unembed.text.corpus import Corpus

CHECKED_CONTEXT = 512
"""Tokens at which a body is proved by default: seconds, where an audit's 2,048 take longer."""

SENTENCES = (
    "The keeper counted 31 boats in the harbour, and wrote the number down before supper.",
    "Nobody had asked her to, but a list that stops is worth less than one that goes on!",
    "By the 9th of May (a Tuesday, she thought) there were 128 pages of it.",
)
"""Plain text to prove a body on."""


@dataclass(frozen=True)
class ModelCheck(ShortRepr):
    """What was recovered and proved of a model, and what to mind; ``check`` makes it.

    ``head`` is the formula of the logits, of ``tokens`` rows that are tokens among ``rows``, each
    ``width`` wide, in ``head_dtype``; ``tied`` to the input embedding or not. ``bos`` is the token
    that ``tokenizer`` puts before every row, None where it puts none; ``lossless`` says that it
    gives back the text that it was given. ``tail`` lies between the last block and the head; it is
    None where the blocks are not proved, and ``no_depths`` says why.

    The body is causal at ``context`` tokens of the ``most_context`` that it is configured for (None
    where it does not say), and short rows may be padded if ``pads``. ``route`` is how the head's
    float32 products are taken, and ``error`` their largest distance from float64 over ``|w| |h|``;
    ``body_route`` is the body's. ``stored_as`` is the format of quantised weights, ``left_out``
    what of the checkpoint takes no part, and ``to_mind`` what to know of all this, a sentence each.
    """

    model: str
    architecture: str
    parameters: int
    dtype: str
    device: str
    head: str
    rows: int
    tokens: int
    width: int
    head_dtype: str
    tied: bool
    bias: bool
    scale: float
    softcap: float | None
    tokenizer: str
    bos: str | None
    lossless: bool
    tail: Tail | None
    no_depths: str | None
    context: int
    most_context: int | None
    pads: bool
    route: str
    error: float
    body_route: str
    stored_as: str | None
    left_out: tuple[str, ...]
    to_mind: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """What all this comes to, in a sentence."""
        mind = len(self.to_mind)
        rest = f"; {mind} thing{'s' * (mind > 1)} to mind" if mind else ""
        return (
            f"{self.model} can be measured exactly: its logits are {self.head}, and no position "
            f"sees a later one{rest}."
        )

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Name and value of everything that was found."""
        bos = "nothing" if self.bos is None else repr(self.bos)
        of_most = "" if self.most_context is None else f" of {self.most_context:,}"
        padding = "changes nothing" if self.pads else "changes short rows"
        body = "too" if self.body_route == self.route else f"by {self.body_route}"
        return [
            ("model", f"{self.architecture}, {self.parameters:,} parameters"),
            ("body", f"{self.dtype} on {self.device}"),
            ("weights stored as", self.stored_as or "plain numbers"),
            ("logits", self.head),
            ("head", f"{self.rows:,} rows of {self.width:,}, {self.head_dtype}, " + self._ties),
            ("tokens among the rows", f"{self.tokens:,}"),
            ("tokenizer", self.tokenizer),
            ("it puts before a row", bos),
            ("tail", f"{self.tail}, proved" if self.no_depths is None else "not proved"),
            ("causal", f"at {self.context:,} tokens{of_most}"),
            ("padding", padding),
            (
                "float32 products",
                f"{self.route}, error {self.error:.1g} of |w| |h|; the body {body}",
            ),
            ("left out", "; ".join(self.left_out) or "nothing"),
        ]

    @property
    def _ties(self) -> str:
        return "tied to the input embedding" if self.tied else "a matrix of its own"

    def __str__(self) -> str:
        mind = "".join(f"  - {one}\n" for one in self.to_mind)
        return f"{self.verdict}\n{mind}\n{as_text(self.lines)}"

    def _phrases(self) -> Iterator[str]:
        yield self.model
        yield self.head
        yield f"{self.rows:,} × {self.width:,} {self.head_dtype}"
        yield f"{len(self.to_mind)} to mind"

    def _rows(self) -> list[tuple[str, str]]:
        to_mind = (("to mind", one) for one in self.to_mind)
        return [("verdict", self.verdict), *to_mind, *self.lines]


@restores_mode
def check(checkpoint: Checkpoint, *, context: int | None = None) -> ModelCheck:
    """Say what is recovered and proved of a model, in seconds.

    What an audit does before its first batch (``ModelPass.of``), on sentences of our own: the head
    is recovered and proved on the model's logits, products are probed, and the body is read at
    ``context`` tokens (None: the model's, at most 512), without the later ones and beside a longer
    row. Raises UnembedError for a model that an audit would refuse. Source: theory §0, §1.
    """
    model, tokenizer = checkpoint.model.eval(), checkpoint.tokenizer
    length = min(context_of(model), CHECKED_CONTEXT) if context is None else context
    corpus = _corpus(tokenizer, length)
    options = ReadingOptions(context=length, batch_tokens=8 * length)
    reading = ModelPass.of(model, corpus, options, checkpoint.name)
    head, precision = reading.head, reading.precision
    bos = None if corpus.bos is None else str(tokenizer.convert_ids_to_tokens(corpus.bos))
    tail, no_depths = _tail(model)
    facts: dict[str, Any] = {
        "model": checkpoint.name,
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": _name(next(model.parameters()).dtype),
        "device": describe_device(head.weight.device),
        "head": head.recipe,
        "rows": head.vocab,
        "tokens": head.tokens,
        "width": head.dim,
        "head_dtype": _name(head.weight.dtype),
        "tied": head.tied,
        "bias": head.bias is not None,
        "scale": head.scale,
        "softcap": head.softcap,
        "tokenizer": reading.windows.facts.tokenizer,
        "bos": bos,
        "lossless": _gives_back(tokenizer),
        "tail": tail,
        "no_depths": no_depths,
        "context": length,
        "most_context": most_context(model),
        "pads": reading.mixed,
        "route": precision.route,
        "error": precision.error,
        "body_route": reading.body_route,
        "stored_as": checkpoint.stored_as,
        "left_out": left_out_of(model),
    }
    beyond = sum(token >= head.vocab for token in token_ids(tokenizer))
    found = ModelCheck(**facts, to_mind=())
    return ModelCheck(**facts, to_mind=tuple(_to_mind(found, model, tokenizer, beyond)))


def _to_mind(found: ModelCheck, model: nn.Module, tokenizer: Any, beyond: int) -> Iterator[str]:
    """What to know of a model before its figures are read, a sentence each."""
    unused_bos = tokenizer.bos_token
    broken = [path for path, weight in model.named_parameters() if not _is_finite(weight)]
    if broken:
        yield (
            f"{len(broken)} of its weights hold numbers that are not finite (first: {broken[0]}): "
            "mend them before anything is measured"
        )
    if found.stored_as is not None:
        yield (
            f"its weights are stored as {found.stored_as}; what is measured are the plain weights "
            "that they stand for"
        )
    for part in found.left_out:
        yield f"left out of what is measured: {part}"
    if found.dtype in ("bfloat16", "float16"):
        yield (
            f"its body computes in {found.dtype}, whose rounding decides the narrowest positions: "
            "--dtype float32 takes it out"
        )
    if not found.pads:
        yield "padding changes its short rows, so rows of one length alone share a batch: slower"
    if found.tokens < found.rows:
        yield (
            f"{found.rows - found.tokens:,} of {found.rows:,} rows of its head are no tokens of "
            "its tokenizer, and can be no decision"
        )
    if beyond:
        yield (
            f"{beyond:,} tokens of its tokenizer have no row in the head: a text that holds one is "
            "refused"
        )
    if found.bos is None and unused_bos is not None:
        yield (
            f"its tokenizer has the token {unused_bos!r} for the beginning of a text and puts it "
            "before none: if the model was trained with it, a row's first positions are not as it "
            "knows them"
        )
    if not found.lossless:
        unknown = _unknown(tokenizer)
        yield (
            "its tokenizer does not give back the text that it is given: spaces or letters change"
            if not unknown
            else f"its tokenizer does not give back the text that it is given: {unknown} pieces of "
            f"an English sentence are read as {tokenizer.unk_token!r}, so give it strings of the "
            "kind that it was made for"
        )
    if found.no_depths is not None:
        yield found.no_depths
    if found.tail is None or not found.tail.exact:
        yield (
            "more than modules in a row lies between its last block and its head: scopes of refine "
            "that name blocks or the final norm may not fit"
        )
    if found.most_context is not None and found.most_context > CONTEXT_LIMIT:
        yield (
            f"it reads up to {found.most_context:,} tokens, and a run {CONTEXT_LIMIT:,}: --context "
            "takes more"
        )


def _tail(model: torch.nn.Module) -> tuple[Tail | None, str | None]:
    try:
        return Depths.of(model).tail, None
    except HeadError as error:
        return None, str(error)


def _corpus(tokenizer: Any, context: int) -> Corpus:
    """A row longer than a context, one of two words, and two short ones that share a block."""
    once = " ".join(SENTENCES)
    tokens = max(1, len(tokenizer(once, verbose=False)["input_ids"]))
    long = " ".join([once] * (context // tokens + 2))
    rows = [long, long[: long.index(" ", 4)], *_almost_alike(once, tokenizer)]
    return Corpus.from_texts(rows, tokenizer)


def _almost_alike(text: str, tokenizer: Any) -> list[str]:
    """Two beginnings of a text, as short as rows of unlike length that are read together can be."""
    shorter, fewer = "", 0
    for end in range(1, len(text)):
        read = len(tokenizer(text[:end], verbose=False)["input_ids"]) - 1
        if read > fewer > 0 and 2 * read <= MOST_PADDING * (read + fewer):
            return [shorter, text[:end]]
        shorter, fewer = text[:end], read
    return []


def _gives_back(tokenizer: Any) -> bool:
    """Whether decoding undoes encoding, but for space around the text."""
    ids = tokenizer(SENTENCES[0], verbose=False)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return bool(back.strip() == SENTENCES[0])


def _unknown(tokenizer: Any) -> int:
    """How many tokens of a sentence stand for what the tokenizer does not know."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = tokenizer(SENTENCES[0], verbose=False)["input_ids"]
    return 0 if unknown is None else list(ids).count(unknown)


def _is_finite(weight: torch.Tensor) -> bool:
    return bool(torch.isfinite(weight).all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
