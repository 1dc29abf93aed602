"""Answer words: what the completions are replaced by, and what the softmax is restricted to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.short_repr import ShortRepr
from unembed.text.corpus import Corpus
from unembed.text.rows import Messages, PromptCompletion, Row

PROMPT = "Answer:"
MOST_NAMED = 8


@dataclass(frozen=True)
class Verbalizers(ShortRepr):
    """Labels and the answer words that stand for them, in the order of the file.

    ``words[i]`` replaces a completion that is ``labels[i]`` but for the white space around it. It
    is put as it is written, its leading space included: ``" yes"`` after a prompt that ends in a
    word or a colon, ``"yes"`` after one that ends in a line feed, and for messages. ``restrict``
    says whether the softmax is over the words alone. ``digest`` identifies all of it.
    """

    labels: tuple[str, ...]
    words: tuple[str, ...]
    restrict: bool
    digest: str

    @staticmethod
    def read(path: str | Path, restrict: bool = False) -> Verbalizers:
        """Read a JSON file: a list of answer words, or an object of labels and answer words.

        A list restricts the softmax to its words, each of which is its own label; an object
        restricts it where ``restrict`` is set.
        Raises UnembedError, naming the file, for what is neither, and for words that are no text,
        blank, or there twice.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            # Pairs, as a plain dictionary would lose a label that is there twice.
            found = json.loads(text, object_pairs_hook=_Pairs)
        except OSError as error:
            raise UnembedError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise UnembedError(
                f"{path} is not JSON ({error}): give a list of answer words, or an object of "
                "labels and answer words"
            ) from None
        if isinstance(found, _Pairs):
            return Verbalizers.of([(label, word) for label, word in found.items], restrict, path)
        if not isinstance(found, list):
            raise UnembedError(
                f"{path} holds {text.strip()!r:.40}: give a list of answer words, or an object of "
                "labels and answer words"
            )
        return Verbalizers.of([(word, word) for word in found], True, path)

    @staticmethod
    def of(
        pairs: Iterable[tuple[Any, Any]], restrict: bool, where: str | Path = "the answer words"
    ) -> Verbalizers:
        """Pairs of a label and its answer word, checked; ``where`` names them in errors."""
        labels: list[str] = []
        words: list[str] = []
        for label, word in pairs:
            for given in (label, word):
                if not isinstance(given, str) or not given.strip():
                    raise UnembedError(f"{where}: {given!r:.40} is no answer word: give text")
            if label.strip() in labels:
                raise UnembedError(
                    f"{where} has {label.strip()!r} twice, white space aside: keep one"
                )
            if word in words:
                raise UnembedError(
                    f"{where} gives the answer word {word!r} to both {labels[words.index(word)]!r} "
                    f"and {label.strip()!r}: give each its own"
                )
            labels.append(label.strip())
            words.append(word)
        if not words:
            raise UnembedError(f"{where} holds no answer words: give some")
        if restrict and len(words) < 2:
            raise UnembedError(
                f"{where} holds {words[0]!r} alone, and a softmax over one word decides nothing: "
                "give at least two"
            )
        plain = json.dumps([labels, words, restrict])
        digest = hashlib.sha256(plain.encode()).hexdigest()
        return Verbalizers(tuple(labels), tuple(words), restrict, digest)

    def apply(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows with their completions replaced, before they are tokenised; empty ones stay.

        ``Corpus.read(..., completion_only=True, reword=verbalizers.apply)``.
        Raises UnembedError, naming row and labels, for a completion that is no label, and for rows
        without completions.
        """
        answers = dict(zip(self.labels, self.words, strict=True))
        for row in rows:
            if row.pair is None or not row.pair.answer.strip():
                if row.pair is None and row.text.strip():
                    raise UnembedError(
                        f"{row.where} has no completion that answer words could replace: add "
                        "--completion-only"
                    )
                yield row
                continue
            said = row.pair.answer.strip()
            if said not in answers:
                raise UnembedError(
                    f"{row.where}: the completion {said!r:.60} is none of the labels "
                    f"{_listed(self.labels)}: add it to the file, or leave the row out"
                )
            pair = PromptCompletion(
                row.pair.prompt, _replaced(row.pair.completion, answers[said], row.where)
            )
            yield replace(row, text=pair.text, pair=pair)

    def token_ids(self, tokenizer: Any) -> Int[np.ndarray, " words"]:
        """The token of each answer word as it follows a prompt, in the order of the words.

        ``tokenise("Answer:" + word)`` without the tokens of ``"Answer:"``.
        Raises UnembedError for a word of several tokens, or of none that the tokenizer knows, and
        for two words of one token.
        """
        found: list[int] = []
        for word in self.words:
            ids = _following(word, tokenizer)
            unknown = getattr(tokenizer, "unk_token_id", None)
            if not ids or (unknown is not None and unknown in ids):
                raise UnembedError(
                    f"the answer word {word!r} is unknown to {type(tokenizer).__name__}: give one "
                    "of its tokens"
                )
            if len(ids) > 1:
                other = word.lstrip() if word[0].isspace() else f" {word}"
                if len(_following(other, tokenizer)) == 1:
                    remedy = f"{other!r} is one, so write it so where prompts allow it"
                else:
                    remedy = f"{other!r} is several, too: give words of one token"
                pieces = _listed(tokenizer.convert_ids_to_tokens(ids))
                raise UnembedError(
                    f"the answer word {word!r} is {len(ids)} tokens after a prompt, {pieces}: "
                    f"{remedy}"
                )
            if ids[0] in found:
                raise UnembedError(
                    f"the answer words {self.words[found.index(ids[0])]!r} and {word!r} are one "
                    f"token of {type(tokenizer).__name__}, {ids[0]}: give words that it tells apart"
                )
            found.append(ids[0])
        return np.array(found, dtype=np.int64)

    def several_tokens(self, tokenizer: Any) -> list[str]:
        """The answer words that are of several tokens, each of which is a sample of its own."""
        return [word for word in self.words if len(_following(word, tokenizer)) > 1]

    def head(self, head: Head, tokenizer: Any) -> Head:
        """The head whose softmax is over the words' tokens alone; the same one if not ``restrict``.

        Raises UnembedError as ``token_ids`` does, and where a token is no row of the head.
        """
        if not self.restrict:
            return head
        ids = torch.from_numpy(self.token_ids(tokenizer)).to(head.weight.device)
        valid = torch.zeros(head.vocab, dtype=torch.bool, device=head.weight.device)
        known = ids < head.vocab
        if head.valid is not None:
            known &= head.valid.to(ids.device)[ids.clamp(max=head.vocab - 1)]
        if not bool(known.all()):
            word = self.words[int((~known).int().argmax())]
            raise UnembedError(
                f"the answer word {word!r} is a token that the head of {head.vocab} rows has not: "
                "the tokenizer does not belong to this model"
            )
        valid[ids] = True
        return Head.from_parts(
            head.weight, head.bias, head.scale, head.softcap, valid, head.tied, head.share
        )

    def answers(self, corpus: Corpus) -> Corpus:
        """The corpus in which the answer words alone count; the same one if not ``restrict``.

        A chat template puts the end of a turn behind an answer, which is counted as part of the
        completion but is no choice that a softmax over the words has.
        Raises UnembedError, naming the document, for a row in which no word's token counts.
        """
        if not self.restrict:
            return corpus
        if corpus.counted is None:
            raise UnembedError(
                f"{corpus.rules}: answer words need completions to stand in: add --completion-only"
            )
        ids = self.token_ids(corpus.tokenizer)
        counted = np.zeros(corpus.tokens, dtype=bool)
        for row, (start, end) in enumerate(zip(corpus.starts, corpus.starts[1:], strict=False)):
            here = np.asarray(corpus.counted[start:end])
            counted[start:end] = here & np.isin(corpus.ids[start:end], ids)
            if not counted[start:end].any():
                pieces = corpus.tokenizer.convert_ids_to_tokens(
                    corpus.ids[start:end][here].tolist()
                )
                raise UnembedError(
                    f"{corpus.names[corpus.document[row]]}: the completion is read as "
                    f"{_listed(pieces)}, no token of the answer words {_listed(self.words)}: put "
                    "the space between prompt and answer into the word, not at the prompt's end"
                )
        return corpus.counting(counted, f"answer words {_listed(self.words)} alone counted")


@dataclass(frozen=True)
class _Pairs:
    """The members of a JSON object, those of one name included."""

    items: list[tuple[str, Any]]


def _replaced(completion: str | Messages, word: str, where: str) -> str | Messages:
    if isinstance(completion, str):
        return word
    if len(completion) > 1:
        raise UnembedError(
            f"{where}: a completion of {len(completion)} messages is no label: give one message"
        )
    return [{**completion[0], "content": word}]


def _following(word: str, tokenizer: Any) -> list[int]:
    both, alone = tokenizer([PROMPT + word, PROMPT], add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    # A tokenizer that joins the two at their boundary has changed the prompt's last token.
    return list(both[len(alone) :] if both[: len(alone)] == alone else both)


def _listed(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more
