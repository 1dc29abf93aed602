"""Prompts and completions as tokens, of which those of the completion count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unembed.errors import UnembedError
from unembed.text.rows import Messages, Row

PROBE = "a"


@dataclass(frozen=True)
class EncodedPair:
    """The token ids of a prompt and its completion, and which of them count."""

    ids: list[int]
    counted: list[bool]


@dataclass(frozen=True)
class _Text:
    """Prompt and completion in one text, the prompt's end, and the ids put before it."""

    text: str
    end: int
    lead: list[int]


def encoded_pairs(rows: Sequence[Row], tokenizer: Any) -> list[EncodedPair]:
    """Tokenise rows of prompts and completions, and mark the tokens of the completions.

    ``ids = lead + tokenise(prompt + completion)``; a token counts if it ends inside the completion.
    ``lead`` is what the tokenizer puts before a text, a BOS token or nothing; what it would put
    behind one is left out, so an end of text that is to be predicted belongs in the completion.
    The first token of a row never counts, as nothing predicts it.

    Prompt and completion are one text because that is what the model was trained on and what it is
    asked at inference: "Answer: " and "yes" make the tokens "Answer", ":", " yes". The fine-tuning
    libraries tokenise the prompt alone as well and mask as many tokens as it has. Where the prompt
    ends in that space, they mask the answer with it; the ends of the tokens, which a fast tokenizer
    knows, place the boundary right, and both agree wherever no token crosses it. A slow tokenizer
    knows no ends: prompt and completion are tokenised separately and joined.

    Messages are written out by the tokenizer's chat template, which holds its own BOS; what the
    template puts behind the completion, the end of a turn, counts. Raises UnembedError, naming the
    row, where there is no template, or it refuses the messages or rewrites the prompt.
    """
    lead = _lead(tokenizer)
    texts = [_text(row, tokenizer, lead) for row in rows]
    options = {
        "add_special_tokens": False,
        "verbose": False,
        "return_attention_mask": False,
    }
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer([text.text for text in texts], **options)
        return [
            _marked(text.lead, encoding.ids, [end > text.end for _, end in encoding.offsets])
            for text, encoding in zip(texts, found.encodings, strict=True)
        ]
    prompts = tokenizer([text.text[: text.end] for text in texts], **options)["input_ids"]
    answers = tokenizer([text.text[text.end :] for text in texts], **options)["input_ids"]
    return [
        _marked(text.lead, prompt + answer, [False] * len(prompt) + [True] * len(answer))
        for text, prompt, answer in zip(texts, prompts, answers, strict=True)
    ]


def conversation(row: Row, tokenizer: Any) -> str:
    """The messages of a row as the tokenizer's chat template writes them, BOS and all.

    Raises UnembedError, naming the row, where there is no template or it refuses them.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise UnembedError(
            f"{row.where} holds messages, and {type(tokenizer).__name__} has no chat template to "
            "write them with: give text, or a tokenizer that has one"
        )
    return _written(tokenizer, row.messages or [], row.where, opened=False)


def _marked(lead: list[int], ids: list[int], counted: list[bool]) -> EncodedPair:
    marks = [False] * len(lead) + counted
    return EncodedPair([*lead, *ids], [mark and i > 0 for i, mark in enumerate(marks)])


def _lead(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer itself puts before a text."""
    bare, full = (
        list(tokenizer([PROBE], add_special_tokens=special, verbose=False)["input_ids"][0])
        for special in (False, True)
    )
    starts = (i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[: next(starts, 0)]


def _text(row: Row, tokenizer: Any, lead: list[int]) -> _Text:
    pair = row.pair
    if pair is None:
        raise ValueError(f"{row.where} has no prompt and completion: read it with completion_only")
    if isinstance(pair.completion, str) and isinstance(pair.prompt, str):
        return _Text(pair.text, len(pair.prompt), lead)
    prompt, completion = _messages(pair.prompt), _messages(pair.completion)
    if getattr(tokenizer, "chat_template", None) is None:
        raise UnembedError(
            f"{row.where} holds messages, and {type(tokenizer).__name__} has no chat template to "
            "write them with: give prompt and completion as text, or a tokenizer that has one"
        )
    opened = _written(tokenizer, prompt, row.where, opened=True)
    whole = _written(tokenizer, [*prompt, *completion], row.where, opened=False)
    if not whole.startswith(opened):
        # Some templates open an answer with more than they keep of one that is given.
        closed = _written(tokenizer, prompt, row.where, opened=False)
        if not whole.startswith(closed):
            raise UnembedError(
                f"{row.where}: the chat template of {type(tokenizer).__name__} writes the prompt "
                "otherwise once the completion follows, so they cannot be told apart: give prompt "
                "and completion as text"
            )
    differ = (i for i, (a, b) in enumerate(zip(opened, whole, strict=False)) if a != b)
    return _Text(whole, next(differ, min(len(opened), len(whole))), [])


def _messages(part: str | Messages) -> Messages:
    """The messages of a part of a conversation; none for an empty text."""
    if isinstance(part, str) and part:
        raise ValueError(f"{part!r} is text in a pair of messages: give both in one way")
    return [] if isinstance(part, str) else part


def _written(tokenizer: Any, messages: Messages, where: str, *, opened: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=opened
        )
    except Exception as error:  # a template is a program, and raises what it likes
        reason = str(error).strip().split("\n")[0] or repr(error)
        raise UnembedError(
            f"{where}: the chat template of {type(tokenizer).__name__} refuses the messages "
            f"({reason}): give prompt and completion as text"
        ) from error
    return text
