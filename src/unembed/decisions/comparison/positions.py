"""Which positions to compare: by class, frequency, margin, document, or words of the user's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

from unembed.decisions.audit.finite_rows import FiniteRows
from unembed.decisions.comparison.pairing import refuse_other_tokens, vocabulary_size
from unembed.decisions.names import BAND_NAMES, CLASSES, FREQUENCY_NAMES, bands_of_range
from unembed.decisions.tokens import encodings_of, marks_of_terms
from unembed.errors import UnembedError
from unembed.short_repr import ShortRepr
from unembed.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class PositionFilter(ShortRepr):
    """Which positions to compare; what is left empty keeps all.

    ``classes`` and ``frequencies`` are of the target, ``bands`` of the margin before: each a band,
    or a range of them such as "5+", ">=5", "0-0.5" or "<2".
    ``documents`` is a regular expression that a document's name must contain. ``terms`` are words
    of the user's: a position is kept where its target is part of one, spelled by ``tokenizer``,
    which must be the audits' own.
    """

    classes: tuple[str, ...] = ()
    frequencies: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    documents: str | None = None
    terms: tuple[str, ...] = ()
    tokenizer: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        bands = [name for asked in self.bands for name in bands_of_range(asked)]
        object.__setattr__(self, "bands", tuple(dict.fromkeys(bands)))
        known = {"classes": CLASSES, "frequencies": FREQUENCY_NAMES}
        for name, choices in known.items():
            for value in getattr(self, name):
                if value not in choices:
                    raise UnembedError(f"{value!r} is none of the {name} {', '.join(choices)}")
        if self.documents is not None:
            try:
                re.compile(self.documents)
            except re.error as error:
                raise UnembedError(
                    f"{self.documents!r} is no regular expression: {error}"
                ) from None
        if self.terms and self.tokenizer is None:
            raise UnembedError(
                f"terms ({', '.join(map(repr, self.terms))}) need the tokenizer that spells them"
            )

    @property
    def words(self) -> str | None:
        """The filter in words, None where everything is kept."""
        said = [f"{name} {', '.join(kept)}" for name, kept in self._lists() if kept]
        if self.documents is not None:
            said.append(f"documents matching {self.documents!r}")
        return "; ".join(said) or None

    def chosen(self, rows: FiniteRows, names: Sequence[str]) -> list[Bool[np.ndarray, " _"]]:
        """The positions kept, part by part; ``names`` are those of the documents.

        Raises UnembedError where there is none.
        """
        documents = np.ones(len(names), dtype=np.bool_)
        if self.documents is not None:
            documents = np.array([re.search(self.documents, name) is not None for name in names])
        lists = (
            (self.classes, CLASSES, "token_class"),
            (self.frequencies, FREQUENCY_NAMES, "frequency"),
            (self.bands, BAND_NAMES, "band_before"),
        )
        asked = [one for one in lists if one[0]]
        found = []
        for _, doc, *groups in rows.parts("doc", *(column for _, _, column in asked)):
            kept = documents[doc]
            for (wanted, choices, _), group in zip(asked, groups, strict=True):
                kept &= np.isin(group, [choices.index(name) for name in wanted])
            found.append(kept)
        if self.terms:
            spelled = encodings_of(self.terms, self.tokenizer)
            # A term may go on in the next part.
            columns = zip(*rows.parts("doc", "pos", "target"), strict=True)
            _, doc, pos, target = (np.concatenate(one) for one in columns)
            marks = marks_of_terms(doc, pos, target, spelled)
            ends = np.cumsum([len(kept) for kept in found])[:-1]
            for kept, marked in zip(found, np.split(marks, ends), strict=True):
                kept &= marked
        if not any(kept.any() for kept in found):
            raise UnembedError(f"no position is left with {self.words}: keep more")
        return found

    def refuse_other_tokenizer(
        self, targets: list[int], vocabulary: Vocabulary, label: str
    ) -> None:
        """Raise UnembedError where the terms are spelled by another tokenizer than the audits'.

        ``vocabulary`` and ``label`` are those of the audits. Compared are the sizes, and what the
        targets decode to.
        """
        if not self.terms:
            return
        if vocabulary_size(label) != (size := f"{len(self.tokenizer)} tokens)"):
            raise UnembedError(
                f"the tokenizers differ, {label} in the audits and "
                f"{type(self.tokenizer).__name__} ({size} for the terms: give the tokenizer of "
                "the audited checkpoints"
            )
        known = {token: vocabulary[token] for token in targets}
        spelled = Vocabulary.of(self.tokenizer, targets).texts
        refuse_other_tokens(known, spelled, "in the audits", "for the terms")

    def _lists(self) -> list[tuple[str, tuple[str, ...]]]:
        return [
            ("classes", self.classes),
            ("frequencies", self.frequencies),
            ("bands", self.bands),
            # Quoted, for a term may hold a comma.
            ("terms", tuple(map(repr, self.terms))),
        ]
