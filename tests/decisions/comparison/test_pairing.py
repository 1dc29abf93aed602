"""Which two audits can be paired, and the one clear message where they cannot."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unembed import Audit, Corpus, UnembedError, audit
from unembed.decisions import AuditOptions
from unembed.decisions.comparison.pairing import Side, pair

TEXTS = [
    "The lambda keyword creates an anonymous function.",
    "with open(name) as stream: return stream.read()",
    "Assert statements are a convenient way to insert debugging assertions into a program.",
]
NAMES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def audited(llama: Any, tokenizer: Any) -> Callable[..., Audit]:
    """An audit of some texts; of the three above where none are given."""

    def of(texts: list[str] = TEXTS, names: list[str] | None = None, **options: Any) -> Audit:
        corpus = Corpus.from_texts(texts, tokenizer, names=names or NAMES[: len(texts)])
        return audit(llama, corpus, AuditOptions(**{"top_k": 0, **options}), name="llama")

    return of


@pytest.fixture(scope="module")
def whole(audited: Callable[..., Audit]) -> Audit:
    return audited()


def refused(before: Audit, after: Audit) -> str:
    """The message, which is the same, sides swapped, for the swapped pair."""
    with pytest.raises(UnembedError) as back:
        pair(after, before)
    with pytest.raises(UnembedError) as caught:
        pair(before, after)
    assert "\n" not in str(caught.value)
    numbers = [sorted(re.findall(r"\w+", str(error.value))) for error in (caught, back)]
    assert numbers[0] == numbers[1]
    return str(caught.value)


def digests(before: Audit, after: Audit) -> list[str]:
    found = [one.provenance.text.digest[:12] for one in (before, after)]
    assert found[0] != found[1]
    return found


def in_memory(one: Audit, table: Any) -> Audit:
    return dataclasses.replace(one, in_memory=table)


def test_a_pair_holds_both_tables_row_for_row(llama: Any, whole: Audit, tokenizer: Any) -> None:
    other = copy.deepcopy(llama)
    with torch.no_grad():
        other.lm_head.weight[:477] = 1.5 * other.lm_head.weight[:477].roll(7, 0)
    after = audit(other, Corpus.from_texts(TEXTS, tokenizer, names=NAMES))
    found = pair(whole, after)
    rows = zip(whole.table.to_pylist(), after.table.to_pylist(), strict=True)
    for i, (one, two) in enumerate(rows):
        for key in ("doc", "pos", "target", "word_start"):
            assert getattr(found, key)[i] == one[key] == two[key]
        for field in dataclasses.fields(Side):
            assert getattr(found.before, field.name)[i] == one[field.name]
            assert getattr(found.after, field.name)[i] == two[field.name]
    assert after.vocabulary.texts.keys() - whole.vocabulary.texts.keys()
    assert len(found.doc) == len(whole)
    assert (found.nonfinite, found.notes) == (0, ())
    for one in (whole, after):
        for token in {*one.column("top1").tolist(), *one.column("target").tolist()}:
            assert found.vocabulary[token] == tokenizer.decode([token])
    chosen = np.arange(len(whole)) % 3 == 1
    some = found.rows(chosen)
    assert some.target.tolist() == found.target[1::3].tolist()
    assert some.word_start.tolist() == found.word_start[1::3].tolist()
    assert some.after.nll.tolist() == found.after.nll[1::3].tolist() != some.before.nll.tolist()
    assert some.before.nll.tolist() == found.before.nll[1::3].tolist()


def test_a_run_folder_pairs_as_an_audit_in_memory(
    audited: Callable[..., Audit], llama: Any, tokenizer: Any, tmp_path: Path
) -> None:
    corpus = Corpus.from_texts(TEXTS, tokenizer, names=NAMES)
    options = AuditOptions(top_k=5, part_positions=20)
    audit(llama, corpus, options, out=tmp_path / "run", name="again")
    found = pair(audited(part_positions=20), Audit.load(tmp_path / "run"))
    assert found.notes == ()
    for name, column in vars(found.before).items():
        assert np.array_equal(column, getattr(found.after, name)), name


# Other texts.


def test_a_longer_document_is_named(audited: Callable[..., Audit], whole: Audit) -> None:
    other = audited([TEXTS[0], TEXTS[1] + " # and more", TEXTS[2]])
    message = refused(whole, other)
    counts = [one.documents["positions"].to_pylist()[1] for one in (whole, other)]
    assert counts[0] < counts[1]
    for digest in digests(whole, other):
        assert digest in message
    assert (
        f"the first document that differs is 1: 'two' of {counts[0]} positions before, "
        f"'two' of {counts[1]} after: run both on one text"
    ) in message


def test_other_tokens_in_the_same_shape_are_named(
    audited: Callable[..., Audit], whole: Audit
) -> None:
    other = audited([*TEXTS[:2], TEXTS[2].replace("program.", "program,")])
    counts = [one.documents["positions"].to_pylist() for one in (whole, other)]
    assert counts[0] == counts[1]
    message = refused(whole, other)
    assert all(digest in message for digest in digests(whole, other))
    assert f"is 2: 'three' of {counts[0][2]} positions before, " in message
    assert f"'three' of {counts[1][2]} after, with other tokens" in message
    # The first token of a document is predicted by nothing, and is text all the same.
    first = audited([TEXTS[0], "(" + TEXTS[1][4:], TEXTS[2]])
    assert "1: 'two'" in refused(audited([TEXTS[0], ")" + TEXTS[1][4:], TEXTS[2]]), first)


def test_names_are_no_text(audited: Callable[..., Audit], whole: Audit) -> None:
    names = ["a.txt:1", "a.txt:2", "a.txt:3"]
    renamed = audited(TEXTS, names)
    assert renamed.provenance.text.digest == whole.provenance.text.digest
    assert pair(whole, renamed).notes == ()
    # The first one that differs is the second, although the names differ from the first one on.
    message = refused(whole, audited([TEXTS[0], "Other words.", TEXTS[2]], names))
    assert "1: 'two' of" in message
    assert "'a.txt:2' of" in message


def test_more_documents_are_counted(audited: Callable[..., Audit], whole: Audit) -> None:
    message = refused(whole, audited(TEXTS[:2]))
    assert "; 3 documents before, 2 after" in message
    # What both measured is the same.
    cut = whole.documents["positions"].to_pylist()[0]
    both = [audited([TEXTS[0], text], max_positions=cut) for text in ("with a", "with b")]
    assert "so they differ in what the runs left out: run both" in refused(*both)


# Other tokenizers.


def letters(text: str, alphabet: str) -> Audit:
    """An audit with a tokenizer of one id a letter."""
    backend = Tokenizer(
        models.WordLevel({c: i for i, c in enumerate(alphabet)}, unk_token=alphabet[0])
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    return audit(LlamaForCausalLM(config).eval(), Corpus.from_texts([text], tokenizer))


def test_tokenizers_of_other_sizes_are_refused() -> None:
    message = refused(letters("cabbage", "abcdefg"), letters("cabbage", "abcdefgh"))
    assert "(7 tokens) before and " in message
    assert "(8 tokens) after" in message


def test_tokenizers_of_one_size_that_spell_otherwise_are_refused() -> None:
    one, two = letters("cabbage", "abcdefg"), letters("dbccbhf", "bcdefgh")
    assert one.provenance.text.tokenizer == two.provenance.text.tokenizer
    assert one.provenance.text.digest == two.provenance.text.digest
    assert "id 0 is ' a' before and ' b' after" in refused(one, two)


def test_a_slow_and_a_fast_class_are_one_tokenizer(whole: Audit) -> None:
    text = dataclasses.replace(whole.provenance.text, tokenizer="Slow (477 tokens)")
    slow = dataclasses.replace(whole, provenance=dataclasses.replace(whole.provenance, text=text))
    assert whole.provenance.text.tokenizer.endswith("(477 tokens)")
    assert whole.provenance.text.tokenizer != text.tokenizer
    assert pair(whole, slow).notes == ()


def test_padded_vocabularies_pair(whole: Audit, llama: Any, tokenizer: Any) -> None:
    corpus = Corpus.from_texts(TEXTS, tokenizer, names=NAMES)
    bare = copy.deepcopy(llama)
    bare.resize_token_embeddings(len(tokenizer))
    after = audit(bare, corpus, AuditOptions(top_k=0))
    assert [one.provenance.head_shape[0] for one in (whole, after)] == [480, 477]
    found = pair(whole, after)
    assert found.notes == ()
    assert np.array_equal(found.before.top1, found.after.top1)
    assert found.before.margin.tolist() == pytest.approx(found.after.margin.tolist(), abs=1e-4)


# Other windows.


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        ({"context": 24}, {"context": 32}, "context 24 before, 32 after"),
        (
            {"overflow": "windows"},
            {"overflow": "truncate"},
            "overflow windows before, truncate after",
        ),
        (
            {"max_positions": 20},
            {"max_positions": 30},
            "positions 20 before, 30 after; give both the same --context, --overflow and --max-pos",
        ),
    ],
)
def test_other_windows_are_refused(
    audited: Callable[..., Audit], one: dict[str, Any], two: dict[str, Any], message: str
) -> None:
    assert message in refused(audited(**one), audited(**two))


# Older runs.


def test_a_run_without_a_column_is_named(
    whole: Audit, llama: Any, tokenizer: Any, tmp_path: Path
) -> None:
    for column in ("word_start", "sum_p2"):
        older = in_memory(whole, whole.table.drop_columns(column))
        message = f"the audit of llama has no column '{column}': an older version wrote it"
        assert message in refused(whole, older)
    corpus = Corpus.from_texts(TEXTS, tokenizer, names=NAMES)
    on_disk = audit(llama, corpus, AuditOptions(top_k=0), out=tmp_path / "run")
    part = tmp_path / "run" / "tokens" / "part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns("sum_p2"), part)
    with pytest.raises(UnembedError, match="run has no column 'sum_p2'"):
        pair(whole, on_disk)


def test_rows_that_do_not_meet_are_refused(whole: Audit) -> None:
    shorter = in_memory(whole, whole.table.slice(0, len(whole) - 4))
    rows = f"{len(whole)} rows before, {len(whole) - 4} after"
    assert f"differ in column 'doc' ({rows}): repeat" in refused(whole, shorter)
    place = whole.table.column_names.index("word_start")
    other = whole.column("word_start").copy()
    other[7] = not other[7]
    table = whole.table.set_column(place, "word_start", [other])
    assert f"column 'word_start' (row 7 is {not other[7]} before and {other[7]} after)" in refused(
        whole, in_memory(whole, table)
    )


# What else differs.


def test_other_precision_paths_are_noted(whole: Audit, audited: Callable[..., Audit]) -> None:
    assert pair(whole, audited(batch_tokens=64)).notes == (
        "the batch size differs: 2048 before, 64 after",
    )
    assert pair(whole, audited(part_positions=20)).notes == (
        "the part size differs: 32768 before, 20 after",
    )
    provenance = whole.provenance
    route, body = provenance.product_route, provenance.options["body_product"]
    for changes, note in (
        ({"model_dtype": "bfloat16"}, "the model's dtype differs: float32 before, bfloat16 after"),
        ({"device": "NVIDIA H200"}, "the device differs: cpu before, NVIDIA H200 after"),
        ({"product_route": "tf32x3"}, f"the head's product differs: {route} before, tf32x3 after"),
        (
            {"options": {**provenance.options, "body_product": "tf32x3"}},
            f"the body's product differs: {body} before, tf32x3 after",
        ),
        ({"epilogue": "other"}, f"the kernel differs: {provenance.epilogue} before, other after"),
        ({"cpu": "other"}, f"the processor differs: {provenance.cpu} before, other after"),
        (
            {"threads": 77},
            f"the number of threads of a batch differs: {provenance.threads} before, 77 after",
        ),
        (
            {"versions": {**provenance.versions, "torch": "1.0"}},
            f"the version of torch differs: {provenance.versions['torch']} before, 1.0 after",
        ),
    ):
        after = dataclasses.replace(whole, provenance=dataclasses.replace(provenance, **changes))
        assert pair(whole, after).notes == (note,)
    # The model is what is compared: another name or digest is no note.
    named = dataclasses.replace(provenance, model="other", model_digest="f" * 64, head_digest="0")
    assert pair(whole, dataclasses.replace(whole, provenance=named)).notes == ()


def test_positions_without_numbers_are_left_out(whole: Audit, llama: Any, tokenizer: Any) -> None:
    broken = copy.deepcopy(llama)
    corpus = Corpus.from_texts(TEXTS, tokenizer, names=NAMES)
    with torch.no_grad():
        broken.get_input_embeddings().weight[int(corpus.ids[corpus.starts[2] + 5])] = torch.nan
    bad = audit(broken, corpus, AuditOptions(max_nonfinite=corpus.tokens))
    missing = bad.table["margin"].null_count
    assert 0 < missing < len(bad)
    wanted = [row for row in bad.table.to_pylist() if row["margin"] is not None]
    for before, after in ((whole, bad), (bad, whole), (bad, bad)):
        found = pair(before, after)
        assert found.nonfinite == missing
        assert list(zip(found.doc.tolist(), found.pos.tolist(), strict=True)) == [
            (row["doc"], row["pos"]) for row in wanted
        ]
        for side in (found.before, found.after):
            assert all(np.isfinite(column).all() for column in vars(side).values())
            assert side.top1.min() >= 0
    assert pair(whole, whole).nonfinite == 0
