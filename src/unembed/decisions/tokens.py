"""What a position predicts: the class of its token, how often it occurs, a user's own terms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from unicodedata import category

import numpy as np
from jaxtyping import Bool, Int

from unembed.decisions.names import CLASSES as CLASSES
from unembed.decisions.names import FREQUENCY_NAMES as FREQUENCY_NAMES
from unembed.decisions.names import TokenClass as TokenClass
from unembed.errors import UnembedError

FREQUENCY_EDGES = (1, 2, 5, 20, 100)
"""The lowest count of each frequency bucket."""

CLOSED_CLASSES = {
    "articles and determiners": """
        a an the this that these those some any no every each either neither both all half such
        another other others own same many much more most few fewer fewest little less least
        several enough
    """,
    "pronouns": """
        i me my mine myself you your yours yourself yourselves he him his himself she her hers
        herself it its itself we us our ours ourselves they them their theirs themself themselves
        one oneself someone somebody something anyone anybody anything everyone everybody
        everything nobody nothing none thou thee thy thine thyself ye
    """,
    "prepositions": """
        aboard about above across after against along alongside amid amidst among amongst around as
        astride at atop before behind below beneath beside besides between beyond by despite down
        during except for from in inside into like near of off on onto out outside over past per
        since than through throughout till to toward towards under underneath unlike until unto up
        upon versus via with within without
    """,
    "conjunctions": """
        and or nor but so yet if unless because although though whereas while whilst lest once
        whether
    """,
    "auxiliaries and modals": """
        be am is are was were been being have has had having do does did can cannot could may might
        must shall should will would ought
    """,
    "negation": "not never n't",
    "particles": """
        there here then thus hence too very quite rather also just only even ever else almost away
        back
    """,
    "wh-words": """
        who whom whose which what when where why how whoever whomever whichever whatever whenever
        wherever however whereby wherein whence whither
    """,
    "contractions": """
        's 't 're 've 'll 'd 'm 'em 'til 'tis 'twas
        ain aren couldn didn doesn hadn hasn isn mightn mustn needn shan shouldn wasn weren wouldn
        ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't
        mustn't needn't shan't shouldn't wasn't weren't won't wouldn't
        i'm i've i'll i'd you're you've you'll you'd he's he'll he'd she's she'll she'd it's it'll
        it'd we're we've we'll we'd they're they've they'll they'd that's that'll that'd this'll
        there's there'll there'd here's who's who're who've who'll who'd what's what're what'll
        when's where's why's how's how'd let's
    """,
}
"""English words of the closed classes, our own list, each under its main use.

Grammars agree on these classes and differ at their edges. Left out: numerals, sentence adverbs
(therefore, moreover), semi-modals that are also full verbs (need, dare, used), participles used as
prepositions (regarding, following), and the halves of cut contractions that are words of their own
(don, haven, won). Kept although they have another use: like, past, may, will, own, mine.
"""

FUNCTION_WORDS = frozenset(" ".join(CLOSED_CLASSES.values()).split())
"""The words of ``CLOSED_CLASSES``: lower case, straight apostrophes."""

NUMERIC = re.compile(r"[0-9][0-9,./:%+-]*")

BROKEN = "\ufffd"
"""What bytes that are no whole character decode to."""

# Soft hyphen, zero-width characters, direction marks, variation selectors, byte order mark.
UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f\ufeff"))

NUMBER_OF = {name: number for number, name in enumerate(CLASSES)}

CONTEXTS = (("", ""), ("a", " "), ("\n", ""), ("(", ""), ("a", ""))
"""What a term is tokenised behind: text whose own tokens are cut off again, and a separator."""


def classify(text: str) -> TokenClass:
    """The class of one token, by its decoded text alone; the first that fits.

    - *structural*: nothing but white space, or every character Unicode punctuation or a symbol
    - *numeric*: ``[0-9][0-9,./:%+-]*``
    - *function*: one of ``FUNCTION_WORDS``, in any case and with either apostrophe
    - *entity-like*: two letters or more, the first upper or title case
    - *content*: any other letters, of any script, with their combining marks
    - *fragment*: the rest: broken UTF-8, pieces that mix letters with other characters, names of
      special tokens and of bytes (``<0x0A>``), marks without a letter, other numerals

    White space around the text does not count, nor do characters that only steer how others are
    drawn (joiners, variation selectors). Tokenizer marks (``Ġ``, ``▁``, ``##``) are text like any
    other, and ``Ġ`` is a letter: give what ``Vocabulary`` gives, not the raw piece. Whether the
    token starts a word is another question, see ``word_starts``: the *to* that ends *tomato* is a
    function word here. Source: theory §4.
    """
    if not text.isascii():
        # U+FFFD is a symbol to Unicode, and would be structural.
        if BROKEN in text:
            return "fragment"
        text = text.translate(UNSEEN).replace("’", "'")
    text = text.strip()
    kinds = {category(character)[0] for character in text}
    if kinds <= {"P", "S"}:
        return "structural"
    if NUMERIC.fullmatch(text):
        return "numeric"
    if text.lower() in FUNCTION_WORDS:
        return "function"
    if "L" not in kinds or not kinds <= {"L", "M"}:
        return "fragment"
    capital = category(text[0]) in ("Lu", "Lt")
    if capital and any(category(character)[0] == "L" for character in text[1:]):
        return "entity-like"
    return "content"


def classes_of(texts: Sequence[str]) -> Int[np.ndarray, " vocab"]:
    """The class of every text as an int8: ``CLASSES.index(classify(text))``."""
    return np.fromiter((NUMBER_OF[classify(text)] for text in texts), np.int8, len(texts))


def frequency_buckets(targets: Int[np.ndarray, " positions"]) -> Int[np.ndarray, " positions"]:
    """The bucket of every position by how often its target occurs among ``targets``.

    An int8 index into ``FREQUENCY_NAMES``; bucket b holds the targets with
    ``FREQUENCY_EDGES[b] <= count < FREQUENCY_EDGES[b + 1]``. The counts are those of the audited
    text, not of the text that the model was trained on. Source: theory §4.
    """
    _, inverse, counts = np.unique(targets, return_inverse=True, return_counts=True)
    return buckets_of_counts(counts)[inverse]


def buckets_of_counts(counts: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, " tokens"]:
    """The bucket of tokens that occur so often, see ``frequency_buckets``; -1 for a count of 0."""
    bucket: Int[np.ndarray, " tokens"] = np.searchsorted(FREQUENCY_EDGES, counts, side="right") - 1
    return bucket.astype(np.int8)


def encodings_of(terms: Sequence[str], tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """The different ways in which a tokenizer spells these terms, as token ids.

    Each term (a word or several) is tokenised at the start of a text, after a space, a newline and
    a parenthesis, and behind a letter, without special tokens. A way in which the term shares a
    token with what stands before it, or in which an unknown token stands for part of it, is left
    out. Upper and lower case are different terms. Raises UnembedError for a blank term and for one
    that the tokens cannot spell.
    """
    blank = next((term for term in terms if not term.strip()), None)
    if blank is not None:
        raise UnembedError(f"the term {blank!r} is blank: take it off the list")
    heads = _ids(tokenizer, [before for before, _ in CONTEXTS])
    found: dict[tuple[int, ...], None] = {}
    for term in (term.strip() for term in terms):
        whole = _ids(tokenizer, [f"{before}{between}{term}" for before, between in CONTEXTS])
        ways = [
            tuple(ids[len(head) :])
            for head, ids in zip(heads, whole, strict=True)
            if ids[: len(head)] == head
        ]
        spelt = [way for way in ways if way and tokenizer.unk_token_id not in way]
        if not spelt:
            raise UnembedError(
                f"the tokenizer cannot spell the term {term!r} without unknown tokens: take it "
                "off the list"
            )
        found |= dict.fromkeys(spelt)
    return tuple(found)


def marks_of_terms(
    doc: Int[np.ndarray, " positions"],
    pos: Int[np.ndarray, " positions"],
    target: Int[np.ndarray, " positions"],
    encodings: Sequence[tuple[int, ...]],
) -> Bool[np.ndarray, " positions"]:
    """Whether each position's target is part of a term, spelt in full by consecutive targets.

    Position i is marked if ``target[s : s + len(e)] == e`` for an encoding e and some
    ``s <= i < s + len(e)`` within one document, with no position left out in between. Positions
    are sorted by ``(doc, pos)``. A row's first token is no target, so a longer term that opens a
    row is not found. Tokens are compared, not words: *art* is found in *party* where the tokens
    are *p*, *art*, *y*. Raises ValueError for an encoding without tokens.
    """
    if () in encodings:
        raise ValueError("an encoding holds no token: leave it out")
    run = np.zeros(len(target), dtype=np.intp)
    run[1:] = np.cumsum((np.diff(doc) != 0) | (np.diff(pos) != 1))
    # Sorted once, a first token costs a bisection, and long lists of terms stay cheap.
    order = np.argsort(target, kind="stable")
    ranked = target[order].astype(np.int64)
    marks = np.zeros(len(target), dtype=bool)
    for encoding in set(encodings):
        first, last = np.searchsorted(ranked, encoding[0], "left"), len(encoding) - 1
        at = order[first : np.searchsorted(ranked, encoding[0], "right")]
        at = at[at + last < len(target)]
        at = at[run[at] == run[at + last]]
        for step, token in enumerate(encoding):
            at = at[target[at + step] == token]
        for step in range(len(encoding)):
            marks[at + step] = True
    return marks


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
