from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from made_up.tokenizers import BUILDERS, byte_level, sentencepiece_bpe
from unembed.text.vocabulary import Vocabulary, word_starts


@pytest.fixture(params=BUILDERS, ids=lambda build: build.__name__)
def trained(request: pytest.FixtureRequest, topics: list[str]) -> Any:
    return request.param(topics)


def test_texts_spell_the_text(trained: Any, topics: list[str]) -> None:
    ids = trained.encode("for the statement of an expression", add_special_tokens=False)
    words = Vocabulary.of(trained, ids)
    assert "".join(words[i] for i in ids).strip() == "for the statement of an expression"


def test_pieces_that_start_a_word_are_those_with_a_space(trained: Any) -> None:
    ids = range(len(trained))
    words, starts = Vocabulary.of(trained, ids), word_starts(trained, len(trained))
    unglued = {",", ".", "!", "?", "'"}  # a WordPiece decoder glues punctuation to the word before
    for i in ids:
        piece = trained.convert_ids_to_tokens(i)
        if i not in trained.all_special_ids and piece != "<0x20>" and piece not in unglued:
            assert starts[i] == words[i].startswith(" "), piece
    assert 0.05 < starts.mean() < 0.95


def test_special_tokens_show_their_names_and_start_no_word(trained: Any) -> None:
    ids = [trained.bos_token_id, trained.eos_token_id, trained.unk_token_id]
    words = Vocabulary.of(trained, ids)
    assert [words[i] for i in ids] == ["<s>", "</s>", "<unk>"]
    assert not word_starts(trained, len(trained))[ids].any()


@pytest.mark.parametrize("build", [byte_level, sentencepiece_bpe])
def test_half_a_character_shows_the_replacement_character(build: Any, topics: list[str]) -> None:
    tokenizer = build(topics)
    ids = tokenizer.encode("中", add_special_tokens=False)
    words = Vocabulary.of(tokenizer, ids)
    halves = [words[i] for i in ids if words[i].strip()]
    assert len(halves) == 3
    assert all(set(half) == {"\ufffd"} for half in halves)


def test_a_byte_that_is_a_letter_is_that_letter(topics: list[str]) -> None:
    tokenizer = sentencepiece_bpe(topics)
    ids = tokenizer.convert_tokens_to_ids(["<0x7E>", "<0x41>"])
    words = Vocabulary.of(tokenizer, ids)
    assert [words[i] for i in ids] == ["~", "A"]


def test_stray_marks_do_not_change_the_kind() -> None:
    def kind(*pieces: str) -> Any:
        backend = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, "a"))
        return word_starts(PreTrainedTokenizerFast(tokenizer_object=backend), len(pieces)).tolist()

    assert kind("a", "##b", "##c", "▁") == [True, False, False, True]
    assert kind("a", "Ġb", "Ġc", "##") == [False, True, True, False]
    assert kind("a", "b") == [False, False]


def test_padded_rows_start_no_word(tokenizer: Any) -> None:
    whole = word_starts(tokenizer, len(tokenizer) + 3)
    assert not whole[-3:].any()
    np.testing.assert_array_equal(whole[:100], word_starts(tokenizer, 100))


def test_a_table_and_back() -> None:
    words = Vocabulary({3: " the", 7: "\ufffd", 9: "half \ud83d", 1: "😀"})
    again = Vocabulary.from_table(words.to_table())
    assert again.texts == {**words.texts, 9: "half ?"}
    assert (again[3], again[4]) == (" the", "[4]")
