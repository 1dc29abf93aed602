from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from made_up.tokenizers import BUILDERS, byte_level, sentencepiece_bpe, unigram, wordpiece
from unembed.decisions.tokens import (
    CLASSES,
    CLOSED_CLASSES,
    FREQUENCY_EDGES,
    FREQUENCY_NAMES,
    FUNCTION_WORDS,
    classes_of,
    classify,
    encodings_of,
    frequency_buckets,
    marks_of_terms,
)
from unembed.errors import UnembedError
from unembed.text.vocabulary import Vocabulary, word_starts

EXAMPLES = {
    "structural": ["", " ", "\n\n", *[",", "'", "...", "«", "—", "€", "+=", "##", "▁", "、", "🙂"]],
    "numeric": [" 7", *["0", "1984", "1,000", "3.14", "12:30", "50%", "1/2", "2024-01-01", "1+"]],
    "function": [" The", *["the", "OF", "I", "'s", "’s", "n't", "'ll", "Isn't", "don’t", "doesn"]],
    "entity-like": [" London", *["NASA", "McCoy", "Élan", "Москва", "Ελλάδα", "ǅep", "Éa"]],
    "content": [" table", *["ing", "iPhone", "B", "naïve", "naïve", "É", "don"]],
    "fragment": [" \ufffd\ufffd", *["_name", "a1", "1st", "U.S", "C++", "e-mail", "half�", "�"]],
}
OTHER_SCRIPTS = {
    "Greek": "λόγος",
    "Cyrillic": " слово",
    "Chinese": "中文",
    "Japanese": "サーバー",
    "Korean": "한국어",
    "Arabic": "كِتَاب",
    "Persian with a joiner": "می\u200cخواهم",
    "Hebrew": "שָׁלוֹם",
    "Devanagari": "हिन्दी",
    "Tamil": "தமிழ்",
    "Thai": "ภาษาที่",
    "Georgian": "ქართული",
}
TOPICS_TERMS = ["expression", "with statement", "exception"]


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_by_example(name: str) -> None:
    assert {text: classify(text) for text in EXAMPLES[name]} == dict.fromkeys(EXAMPLES[name], name)


@pytest.mark.parametrize("script", OTHER_SCRIPTS)
def test_words_of_every_script_are_content(script: str) -> None:
    assert classify(OTHER_SCRIPTS[script]) == "content"


@pytest.mark.parametrize(
    "text",
    ["<0x0A>", "<0xE4>", "<s>", "<|endoftext|>", "\u0301", "ी", "Ⅳ", "½", "٣", "\x00", "0x1F"],
)
def test_what_no_other_class_holds_is_a_fragment(text: str) -> None:
    assert classify(text) == "fragment"


@pytest.mark.parametrize("unseen", ["\u200d", "\u200c", "\ufe0f", "\u00ad", "\ufeff"])
def test_unseen_characters_change_no_class(unseen: str) -> None:
    for name, texts in EXAMPLES.items():
        for text in texts:
            assert classify(unseen.join(["", *text, ""])) == name
    assert classify("\u2764\ufe0f") == "structural"


def classify_naively(text: str) -> str:
    """theory §4 read out, one character after the other."""
    unseen = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f\ufeff"
    text = "".join(c for c in text if c not in unseen).strip()
    of = [unicodedata.category(c) for c in text]
    letters = [k for k in of if k in ("Lu", "Ll", "Lt", "Lm", "Lo")]
    marks = [k for k in of if k in ("Mn", "Mc", "Me")]
    if "\ufffd" in text:
        return "fragment"
    if all(k.startswith(("P", "S")) for k in of):
        return "structural"
    if text[0] in "0123456789" and all(c in "0123456789,./:%+-" for c in text):
        return "numeric"
    words = [word for line in CLOSED_CLASSES.values() for word in line.split()]
    if text.lower().replace("’", "'") in words:
        return "function"
    if letters and len(letters) + len(marks) == len(text):
        entity = len(letters) > 1 and of[0] in ("Lu", "Lt")
        return "entity-like" if entity else "content"
    return "fragment"


characters = st.sampled_from("aZ1,.%-'’_ \nÉßя中ー\u0301ि\u01c5\u200d\ufffd€٣½") | st.characters()
words = st.sampled_from(sorted(FUNCTION_WORDS))
texts = st.text(characters, max_size=6) | words | words.map(str.upper) | words.map(str.title)


@settings(max_examples=400, deadline=None)
@given(st.lists(texts, max_size=8))
def test_classes_are_those_of_the_definition(found: list[str]) -> None:
    assert [CLASSES[i] for i in classes_of(found)] == [classify_naively(text) for text in found]
    assert classes_of([f" {text}\n" for text in found]).tolist() == classes_of(found).tolist()
    assert classes_of(found).dtype == np.int8


def test_function_words_reach_the_function_class() -> None:
    assert {classify(word) for word in FUNCTION_WORDS} == {"function"}
    assert all(word == word.lower() and "’" not in word for word in FUNCTION_WORDS)
    assert 200 < len(FUNCTION_WORDS) < 400


@pytest.mark.parametrize("build", BUILDERS)
def test_space_marks_of_every_tokenizer_leave_the_class_alone(
    build: Any, topics: list[str]
) -> None:
    """A word and its middle have the class of their letters, whether a space leads or not."""
    tokenizer = build(topics)
    vocabulary = Vocabulary.of(tokenizer, range(len(tokenizer)))
    seen = [vocabulary[i] for i in range(len(tokenizer))]
    found, starts = classes_of(seen), word_starts(tokenizer, len(tokenizer))
    bare = {i: t for t, i in tokenizer.get_vocab().items() if i not in tokenizer.all_special_ids}
    for i, piece in bare.items():
        letters = piece.removeprefix("##").lstrip("Ġ▁")
        if letters.isascii() and letters.isalpha():
            assert CLASSES[found[i]] == classify(letters), piece
            assert seen[i].strip() == letters
    function = found == CLASSES.index("function")
    assert (function & starts).any()
    assert (function & ~starts).any()
    assert {CLASSES[i] for i in found[tokenizer.all_special_ids]} == {"fragment"}


@pytest.mark.parametrize("build", [byte_level, sentencepiece_bpe])
def test_bytes_of_half_a_character_are_fragments(build: Any, topics: list[str]) -> None:
    tokenizer = build(topics)
    halves = tokenizer("中", add_special_tokens=False)["input_ids"][-3:]
    vocabulary = Vocabulary.of(tokenizer, halves)
    assert {classify(vocabulary[i]) for i in halves} == {"fragment"}


def test_a_byte_that_is_white_space_is_structural(topics: list[str]) -> None:
    tokenizer = sentencepiece_bpe(topics)
    newline = tokenizer.convert_tokens_to_ids("<0x0A>")
    assert classify(Vocabulary.of(tokenizer, [newline])[newline]) == "structural"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2**31 - 1), st.integers(1, 130)), max_size=6),
    st.randoms(use_true_random=False),
)
def test_frequency_buckets_count_the_targets(groups: list[tuple[int, int]], random: Any) -> None:
    targets = [token for token, times in groups for _ in range(times)]
    random.shuffle(targets)
    counts = Counter(targets)
    want = [max(b for b in range(5) if FREQUENCY_EDGES[b] <= counts[t]) for t in targets]
    for dtype in (np.int32, np.int64):
        got = frequency_buckets(np.array(targets, dtype=dtype))
        assert got.tolist() == want
        assert got.dtype == np.int8


def test_frequency_buckets_are_named_by_their_edges() -> None:
    times = [1, 2, 4, 5, 19, 20, 99, 100, 1000]
    buckets = frequency_buckets(np.repeat(np.arange(len(times)), times))
    names = [FREQUENCY_NAMES[b] for b in buckets[np.cumsum(times) - 1]]
    assert names == ["1", "2-4", "2-4", "5-19", "5-19", "20-99", "20-99", "100+", "100+"]


def marks_naively(doc: Any, pos: Any, target: Any, encodings: Any) -> list[bool]:
    """Every start, every encoding, every token compared."""
    marks = [False] * len(target)
    for start in range(len(target)):
        for encoding in encodings:
            stop = start + len(encoding)
            if stop > len(target) or tuple(target[start:stop].tolist()) != encoding:
                continue
            if all(
                doc[i] == doc[start] and pos[i] == pos[start] + i - start
                for i in range(start, stop)
            ):
                marks[start:stop] = [True] * len(encoding)
    return marks


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.booleans(), st.integers(1, 3), st.lists(st.integers(0, 2), max_size=9)),
        max_size=5,
    ),
    encodings=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), max_size=4),
)
def test_marks_of_terms_are_those_of_a_search(rows: Any, encodings: Any) -> None:
    """Rows open a new document or go on with the last one, after a gap or without."""
    doc, pos, target = [0], [0], [2]
    for opens, gap, tokens in rows:
        start = pos[-1] + gap
        doc += [doc[-1] + opens] * len(tokens)
        pos += range(start, start + len(tokens))
        target += tokens
    columns = [np.array(column, dtype=np.int32) for column in (doc, pos, target)]
    got = marks_of_terms(*columns, encodings)
    assert got.tolist() == marks_naively(*columns, encodings)
    assert marks_of_terms(*(column[:0] for column in columns), encodings).size == 0


def test_terms_end_with_their_document_and_their_row() -> None:
    doc = np.array([0, 0, 0, 1, 1, 1])
    pos = np.array([0, 1, 2, 3, 4, 6])
    target = np.array([7, 8, 7, 8, 7, 8])
    marks = marks_of_terms(doc, pos, target, [(7, 8)])
    assert marks.tolist() == [True, True, False, False, False, False]


def test_an_encoding_without_tokens_is_refused() -> None:
    nothing = np.zeros(3, dtype=np.int32)
    with pytest.raises(ValueError, match="holds no token"):
        marks_of_terms(nothing, nothing, nothing, [(1,), ()])


@pytest.mark.parametrize("build", BUILDERS)
def test_encodings_spell_the_term_and_nothing_else(build: Any, topics: list[str]) -> None:
    tokenizer = build(topics)
    for term in TOPICS_TERMS:
        found = encodings_of([term], tokenizer)
        assert len(set(found)) == len(found) >= 2
        anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
        for ids in found:
            text = tokenizer.decode([*anchor, *ids], clean_up_tokenization_spaces=False)
            assert text[1:].strip() == term
    padded = [f" {term}\n" for term in TOPICS_TERMS]
    assert encodings_of(padded, tokenizer) == encodings_of(TOPICS_TERMS, tokenizer)


def test_encodings_stand_at_a_word_start_and_inside_a_word(topics: list[str]) -> None:
    def pieces(build: Any, term: str) -> set[str]:
        tokenizer = build(topics)
        found = encodings_of([term], tokenizer)
        return {" ".join(tokenizer.convert_ids_to_tokens(ids)) for ids in found}

    assert pieces(byte_level, "in") == {"in", "Ġin"}
    assert pieces(wordpiece, "in") == {"in", "##in"}
    assert {"in", "▁in"} <= pieces(unigram, "in")
    assert {"▁ i n", "i n"} <= pieces(sentencepiece_bpe, "in")


@pytest.mark.parametrize("build", BUILDERS)
def test_terms_are_found_where_a_text_holds_them(build: Any, topics: list[str]) -> None:
    tokenizer = build(topics)
    text = "(expression), the expression\nand an exception to the rule"
    target = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    doc, pos = np.zeros_like(target), np.arange(len(target), dtype=np.int32)
    marks = marks_of_terms(doc, pos, target, encodings_of(["expression", "rule"], tokenizer))
    seen = Vocabulary.of(tokenizer, target.tolist())
    spelt = "".join(seen[int(token)].strip() for token in target[marks])
    assert spelt == "expressionexpressionrule"


PREPEND = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]


@pytest.mark.parametrize(
    ("normal", "glued", "want"),
    [
        (PREPEND, ["▁a", "▁aa", "▁(", "▁(a"], {("a", "r"), ("▁a", "r")}),
        (
            [normalizers.Replace("\n", " "), *PREPEND],
            ["▁a", "▁aa", "▁("],
            {("a", "r"), ("▁a", "r")},
        ),
        ([], ["aa", "a▁", "(a", "\na"], {("a", "r")}),
    ],
    ids=["bare after a newline", "bare after a parenthesis", "bare at the start"],
)
def test_a_term_that_shares_a_token_with_its_context_is_left_out(
    normal: Any, glued: list[str], want: set[tuple[str, ...]]
) -> None:
    vocab = {piece: i for i, piece in enumerate(["<unk>", *"▁ar(\n", *glued])}
    merges = [(piece[:-1], piece[-1]) for piece in glued]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([*normal, normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    found = {tuple(tokenizer.convert_ids_to_tokens(e)) for e in encodings_of(["ar"], tokenizer)}
    assert found == want


def test_terms_that_cannot_be_spelt_are_named(topics: list[str]) -> None:
    tokenizer = wordpiece(topics)
    with pytest.raises(UnembedError, match=r"'中文'"):
        encodings_of(["rule", "中文"], tokenizer)
    with pytest.raises(UnembedError, match="' ' is blank"):
        encodings_of(["rule", " "], tokenizer)
    assert encodings_of([], tokenizer) == ()
