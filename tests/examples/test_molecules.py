"""The example on molecules: its tokenizer, its nine domains, its questions and its yardsticks."""

from __future__ import annotations

import gzip
import itertools
import math
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from places import ROOT

pytest.importorskip("rdkit", reason="molecules are read by RDKit: pip install rdkit")
Chem = import_module("rdkit.Chem")
sys.path.insert(0, str(ROOT / "examples" / "molecules"))
NAMES = ("data", "evaluate", "kinds", "properties", "tokenizer", "train")
data, evaluate, kinds, properties, tokenizer, train = map(import_module, NAMES)
LATER = ("answer_words", "cross_domain", "find_domain")
answer_words, cross_domain, find_domain = map(import_module, LATER)

STRINGS = [
    "CCCS(=O)c1ccc2[nH]c(=NC(=O)OC)[nH]c2c1",
    "CC(C)(C)C(=O)C(Oc1ccc(Cl)cc1)n1ccnc1",
    "Cc1c(Cl)cccc1Nc1ncccc1C(=O)OCC(O)CO",
    "[H]C(F)(F)C(Br)Cl",
    "Brc1ccc2[nH]ccc2c1",
    "CN1CCC(CC1)C1CCCCC1",
]


@pytest.fixture(scope="module")
def made() -> Any:
    return tokenizer.train_tokenizer(STRINGS * 20, 70)


def test_a_molecule_is_read_back_and_no_atom_is_cut(made: Any) -> None:
    for one in (*STRINGS, "ClCBr", "C[nH]Cl"):
        ids = made(one)["input_ids"]
        assert (ids[0], ids[-1]) == (made.bos_token_id, made.eos_token_id)
        assert made.unk_token_id not in ids
        assert made.decode(ids, skip_special_tokens=True) == one
        cut = made.tokenize(one)
        assert "".join(cut) == one
        # Every boundary between tokens is one between pieces.
        ends = {0, *itertools.accumulate(map(len, tokenizer.pieces(one)))}
        assert set(itertools.accumulate(map(len, cut))) <= ends, cut
    assert any(len(tokenizer.pieces(token)) > 2 for token in made.tokenize(STRINGS[1]))


def test_questions_are_words_that_no_molecule_holds(made: Any) -> None:
    said = made.tokenize(STRINGS[0] + tokenizer.ASK + tokenizer.YES)
    assert said[-2:] == [tokenizer.ASK, tokenizer.YES]
    assert said[:-2] == made.tokenize(STRINGS[0])
    assert made.unk_token_id in made("C[N+](C)C")["input_ids"]
    assert len(made) == 70
    with pytest.raises(SystemExit, match="only 23 of 9000 tokens were found"):
        tokenizer.train_tokenizer(["CC", *"clo(=)"], 9_000)


def test_batches_resume_and_their_questions_are_answered_at_random(made: Any) -> None:
    rows = train.Rows.of(STRINGS * 200, made)
    first = list(itertools.islice(rows.batches(16, 0), 60))
    again = list(itertools.islice(rows.batches(16, 0, skip=40), 20))
    assert all(map(torch.equal, first[40:], again))
    epoch = first[: len(rows) // 16]
    assert sum(int((batch == rows.end).sum()) for batch in epoch) == 16 * len(epoch)
    asked = [row for batch in first for row in batch.tolist() if rows.ask in row]
    assert 0.01 < len(asked) / (16 * 60) < 0.08
    for row in asked:
        at = row.index(rows.ask)
        assert row[at + 1] in rows.answers
        assert row[at + 2] == rows.end
    answers = {row[row.index(rows.ask) + 1] for row in asked}
    assert len(answers) > 5


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    scales = [train.scale_at(at, 0.02) for at in np.linspace(0, 1, 201)]
    assert scales[0] < 0.1 < max(scales) == pytest.approx(1)
    assert scales[-1] == pytest.approx(0)
    assert np.argmax(scales) == 4


def test_a_molecule_is_of_the_only_domain_whose_test_it_passes() -> None:
    found = {
        "CCC(=O)NC1CCCCC1C(=O)NC1CCCCC1": "no aromatic ring",
        "COC(=O)C1CCCCC1C(=O)NC1CCCCC1C(N)=O": None,
        "Cc1ccc(C(=O)Nc2ccccc2)cc1": "small",
        "CCN(CC)CCc1ccc(C(=O)Nc2cccc(C)c2)cc1": "basic amine",
        "CCOC(=O)c1c(C)sc(NC(=O)c2ccccc2C)c1C": "aromatic sulfur",
        "CCCNS(=O)(=O)c1ccc(C(=O)NCc2ccccc2)cc1": "sulfonyl",
        "Cc1ccc(C(=O)Nc2cc(Cl)c(Cl)cc2CCC(C)C)cc1": "halogens",
        "Cc1ccc(C(=O)Nc2cc(Cl)c(Cl)cc2)s1": None,
    }
    for smiles, domain in found.items():
        mol = Chem.MolFromSmiles(smiles)
        passed = [name for name, test in kinds.TESTS.items() if test(mol)]
        assert kinds.domain_of(mol) == domain, passed


def test_domains_share_no_molecule_and_sides_no_scaffold(tmp_path: Path) -> None:
    chains = [f"C{'C' * a}OC(=O)C1CCC(C{'C' * b}C(N)=O)CC1" for a in range(6) for b in range(6)]
    rings = [f"c1ccc(C{'C' * a}c2cccc({x})c2)cc1" for a in range(9) for x in "CN"]
    some = list(kinds.members([*chains, *rings, "no molecule", *chains]))
    assert {one.domain for one in some} == {"no aromatic ring", "small"}
    counted = kinds.write(some, tmp_path, 1_000)
    assert len(counted) == len(kinds.TESTS) == 9
    pd = import_module("pandas")
    sides = {
        (domain, side): pd.read_parquet(kinds.file_of(tmp_path, side, domain))
        for domain in kinds.TESTS
        for side in ("train", "heldout")
    }
    texts = [text for table in sides.values() for text in table["text"]]
    assert len(texts) == len(set(texts)) > 20
    for domain in kinds.TESTS:
        train_side, held = (set(sides[domain, side]["scaffold"]) for side in ("train", "heldout"))
        assert not train_side & held
    splits = [[kinds.is_held_out(f"C{i}", seed) for i in range(300)] for seed in (0, 1)]
    assert splits[0] != splits[1]
    assert 0.2 < np.mean(splits) < 0.47


def test_every_answer_is_right_equally_often() -> None:
    strings = [f"C{'C' * (i % 7)}O{'C' * (i // 7)}N" for i in range(35)]
    found = properties.values(strings)
    assert found.shape == (35, len(properties.PROPERTIES))
    for column in found.T:
        labels = properties.parts(column, strings, 5)
        assert np.bincount(labels).tolist() == [7] * 5
        assert all(column[labels == i].max() <= column[labels == i + 1].min() for i in range(4))
        turned = np.random.default_rng(0).permutation(35)
        again = properties.parts(column[turned], [strings[i] for i in turned], 5)
        assert np.array_equal(again, labels[turned])
    heavy = properties.parts(found[:, 0], strings, 2)
    rows = properties.rows(strings, heavy, properties.HALVES)
    assert rows[0] == {"prompt": "CON ?", "completion": " no"}
    assert rows[-1]["completion"] == " yes"


def test_trigrams_are_distributions_and_agree_with_a_slow_count(made: Any) -> None:
    rows = train.Rows.of(STRINGS, made)
    vocab = len(made)
    found = evaluate.Trigrams.of(rows, vocab)
    wanted, row = evaluate.codes(rows, vocab)
    assert np.bincount(row).tolist() == (np.diff(rows.starts) + 1).tolist()
    first = made(STRINGS[0])["input_ids"]
    whole = [rows.begin, *first]
    slow = [
        (a * vocab + b) * vocab + c
        for a, b, c in zip(whole[:-2], whole[1:-1], whole[2:], strict=True)
    ]
    assert wanted[row == 0].tolist() == slow
    # After every context seen, the chances of all tokens sum to one.
    for context in np.unique(wanted // vocab)[:12]:
        said = found.unigrams
        for order, table in enumerate(found.tables, 2):
            codes = (context * vocab + np.arange(vocab)) % vocab**order
            said = found._level(*table, codes, said)
        assert said.sum() == pytest.approx(1)
    # A trigram that occurs once, after a context that occurs once.
    _, counts = found.tables[1]
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    discount = once / (once + 2 * twice)
    alone = [g for g in wanted if (wanted // vocab == g // vocab).sum() == 1]
    at = int(np.flatnonzero(wanted == alone[0])[0])
    below = found._level(
        *found.tables[0],
        wanted[at : at + 1] % vocab**2,
        found.unigrams[wanted[at : at + 1] % vocab],
    )
    expected = (1 - discount) + discount * float(below[0])
    assert found.nats(rows)[at] == pytest.approx(-math.log(expected))


def test_what_is_written_is_judged() -> None:
    written = ["CCO", "OCC", "C1CC", "CCN ? A", "", "CCC"]
    found = evaluate.judged(written, {"CCO"})
    assert found["valid"].value == pytest.approx(4 / 6)
    assert found["unique"].value == pytest.approx(3 / 4)
    assert found["novel"].value == pytest.approx(2 / 3)
    assert found["asked"].value == pytest.approx(1 / 6)
    share = evaluate.share(0, 10)
    assert share.low == pytest.approx(0)
    assert 0.25 < share.high < 0.31
    ratio = evaluate.ratio(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert (ratio.value, ratio.low, ratio.high) == (2, 2, 2)


def test_molecules_are_read_from_the_package_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.csv.gz"
    with gzip.open(file, "wt") as lines:
        lines.write("SMILES,SPLIT\nCCO,train\nCCN,train\n")
    monkeypatch.setattr(data, "file_of", lambda split: file)
    assert data.molecules("train") == ["CCO", "CCN"]
    assert data.molecules("train", 1) == ["CCO"]
    monkeypatch.undo()
    monkeypatch.setattr(
        data, "files", lambda name: (_ for _ in ()).throw(data.PackageNotFoundError)
    )
    with pytest.raises(SystemExit, match="pip install --no-deps molsets"):
        data.molecules("test")


def test_a_property_is_asked_of_two_halves_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    strings = [f"C{'C' * (i % 6)}O{'C' * (i // 6)}N" for i in range(30)]
    monkeypatch.setattr(answer_words, "drawn", lambda count, seed: strings[:count])
    setup = replace(answer_words.SHIFT, classes=5, prompts=3)
    halves = answer_words.prompts_of("weight", setup, 0)
    assert [[kind for _, kind in half] for half in halves] == [
        [k for k in range(5) for _ in "123"]
    ] * 2
    said = [text for half in halves for text, _ in half]
    assert sorted(said) == sorted(strings)
    weights = [properties.values([text])[0, 0] for half in halves for text, _ in half]
    kinds_said = [kind for half in halves for _, kind in half]
    order = np.argsort(weights, kind="stable")
    assert np.all(np.diff(np.array(kinds_said)[order]) >= 0)


def test_a_side_of_a_domain_holds_enough_positions_and_no_molecule_more(made: Any) -> None:
    checkpoint = SimpleNamespace(tokenizer=made)
    sizes = [len(made(one)["input_ids"]) - 1 for one in STRINGS]
    count = sizes[0] + sizes[1] + 1 - cross_domain.SPARE
    found = cross_domain.enough(checkpoint, STRINGS, "all", count)
    assert found.names == tuple(STRINGS[:3])
    with pytest.raises(SystemExit, match="9,050 needed"):
        cross_domain.enough(checkpoint, STRINGS, "all", 9_000)


def test_token_counts_leave_out_what_every_molecule_has(made: Any) -> None:
    checkpoint = SimpleNamespace(tokenizer=made)
    found = find_domain.counted(checkpoint, STRINGS[:2])
    assert np.linalg.norm(found) == pytest.approx(1)
    assert found[[made.bos_token_id, made.eos_token_id]].tolist() == [0, 0]
    ids = made.convert_tokens_to_ids([t for one in STRINGS[:2] for t in made.tokenize(one)])
    assert set(np.flatnonzero(found)) == set(ids)
    assert found @ find_domain.counted(checkpoint, STRINGS[:2][::-1]) == pytest.approx(1)


def test_answers_are_balanced_in_each_half_and_turned_by_one() -> None:
    strings = [f"C{'C' * (i % 6)}O{'C' * (i // 6)}N" for i in range(30)]
    found = answer_words.labelled(strings)
    assert len(found) == 2 * len(properties.PROPERTIES)
    for name in properties.PROPERTIES:
        plain, turned = found[name], found[f"{name}, turned"]
        assert np.array_equal(turned, (plain + 1) % 5)
        for half in (0, 1):
            assert np.bincount(plain[half::2]).tolist() == [3] * 5
