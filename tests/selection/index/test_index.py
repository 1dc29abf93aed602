"""The index of signatures: what it finds, adds, replaces, removes, compacts and draws."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from made_up.signatures import IDENTITY, M, random_signature
from reference.index import coordinates, cosine, debiased, plain, ranked
from unembed.errors import UnembedError
from unembed.selection.index import files, growth, ledger, nearest, plane, sieve
from unembed.selection.index.entries import Entry, Label
from unembed.selection.index.index import Index, PendingEntry, digest_of, points_of
from unembed.selection.index.nearest import best_rows
from unembed.selection.index.plane import map_of, principal
from unembed.selection.index.text import answer_text, entries_text
from unembed.signatures.alignment.align import align
from unembed.signatures.file import Dtype

OTHERS = [random_signature(f"task {i}", i, like=i % 3) for i in range(1, 12)]
QUERY = random_signature("query", 0, like=1)


def filled(folder: Path, *, by: str = "joint", dtype: Dtype = "float32") -> Index:
    index = Index.create(folder, IDENTITY, by=by, dtype=dtype)
    index.add(OTHERS[:7], Label(("first", "made up"), "CC0", "a note"))
    for one in OTHERS[7:]:
        index.add([one])
    return index


@pytest.mark.parametrize("by", ["joint", "activation", "error", "gradient"])
def test_queries_agree_with_loops_over_every_number(tmp_path: Path, by: str) -> None:
    filled(tmp_path / "index", by=by)
    answer = Index.open(tmp_path / "index").query(QUERY, 20)
    assert [match.entry.name for match in answer.matches] == ranked(QUERY, OTHERS, by)
    states = {one.name: one.state for one in OTHERS}
    for match in answer.matches:
        want = cosine(QUERY.state, states[match.entry.name], by)
        assert match.cosine.value == pytest.approx(want, abs=2e-6)
    assert (answer.searched, answer.status, answer.by) == (11, "ok", by)


def test_cosines_and_their_errors_are_those_of_alignments(tmp_path: Path) -> None:
    """Of tasks that share no inputs: then an alignment takes nothing out of their product."""
    index = filled(tmp_path / "index")
    want = align([QUERY, *OTHERS]).joint
    for match in index.query(QUERY, 3).matches:
        at = 1 + [one.name for one in OTHERS].index(match.entry.name)
        assert match.cosine.value == pytest.approx(want.value[0, at], abs=2e-6)
        assert match.sketch_se == pytest.approx(want.sketch_se[0, at], rel=1e-4)
        assert match.cosine.low is not None
        assert match.cosine.high is not None
        assert match.cosine.low < want.value[0, at] < match.cosine.high
        assert not match.shares_inputs


@pytest.mark.parametrize(("dtype", "within"), [("float16", 1e-3), ("int8", 2e-2)])
def test_narrow_numbers_move_cosines_a_little(tmp_path: Path, dtype: Dtype, within: float) -> None:
    index = filled(tmp_path / "index", dtype=dtype)
    states = {one.name: one.state for one in OTHERS}
    off = [
        abs((match.cosine.value or 0) - cosine(QUERY.state, states[match.entry.name]))
        for match in index.query(QUERY, 20).matches
    ]
    assert 0 < max(off) < within
    exact = filled(tmp_path / "exact")
    size = [
        (tmp_path / name / "vectors-000001.bin").stat().st_size / 11 - 512
        for name in ("index", "exact")
    ]
    assert size[0] == size[1] / {"float16": 2, "int8": 4}[dtype]
    np.testing.assert_allclose(index.vectors(), exact.vectors(), atol=5 * within)


def test_the_same_signature_and_shared_documents_are_told(tmp_path: Path) -> None:
    index = filled(tmp_path / "index")
    relative = random_signature("relative", 3, like=0, documents=10)
    answer = index.query(OTHERS[2], 11)
    first = answer.matches[0]
    assert (first.entry.name, first.cosine.value, first.sketch_se) == ("task 3", 1.0, 0.0)
    assert [match.shares_inputs for match in answer.matches] == [True] + [False] * 10
    assert "the same signature" in answer_text(answer)
    other = index.query(relative, 11)
    assert [m.entry.name for m in other.matches if m.shares_inputs] == ["task 3"]
    assert "too high, for they share documents with relative: task 3" in answer_text(other)
    assert "sketch's error" in answer_text(other)


def test_few_samples_do_not_win_by_their_norm(tmp_path: Path) -> None:
    index = filled(tmp_path / "index")
    few = random_signature("few", 70, like=1, documents=2, each=1)
    index.add([few])
    answer = index.query(QUERY, 12)
    [match] = [m for m in answer.matches if m.entry.name == "few"]
    mean = few.state.mean("joint")
    assert mean is not None
    reliability = debiased(few.state, "joint") / float(np.square(mean).mean())
    assert reliability < 0.95
    assert match.entry.reliability == pytest.approx(reliability)
    assert match.cosine.value == pytest.approx(cosine(QUERY.state, few.state), abs=1e-5)
    assert match.score == pytest.approx(plain(QUERY.state, few.state), abs=1e-5)
    assert match.score < match.cosine.value


def test_an_entry_of_one_document_is_ordered_without_a_cosine(tmp_path: Path) -> None:
    index = filled(tmp_path / "index")
    lone = random_signature("lone", 30, like=1, documents=1)
    index.add([lone])
    [entry] = [e for e in Index.open(tmp_path / "index").entries if e.name == "lone"]
    assert (entry.squared_norm, entry.reliability) == (None, None)
    answer = index.query(QUERY, 12)
    [match] = [m for m in answer.matches if m.entry.name == "lone"]
    assert match.cosine.value is None
    assert match.cosine.reason == "too few samples in the entry"
    assert match.score == pytest.approx(plain(QUERY.state, lone.state), abs=1e-5)
    assert all(m.cosine.value is not None for m in answer.matches if m is not match)
    [line] = [x for x in answer_text(answer).splitlines() if x.startswith("lone")]
    assert "too few samples" in line


def test_a_prompt_without_a_norm_is_ranked_all_the_same(tmp_path: Path) -> None:
    index = filled(tmp_path / "index")
    prompt = random_signature("prompt", 50, like=2, documents=1, each=2)
    answer = index.query(prompt, 11)
    mean = prompt.state.mean("joint")
    assert mean is not None
    products = index.vectors() @ mean / M / np.sqrt(np.square(mean).mean())
    order = [index.entries[i].name for i in np.argsort(-products)]
    assert [match.entry.name for match in answer.matches] == order
    assert answer.matches[0].score == pytest.approx(products.max(), rel=1e-5)
    assert all(m.cosine.value is None and m.cosine.reason for m in answer.matches)
    assert "n = 2 in 1 documents" in answer.status
    assert "cosines are not known" in answer_text(answer)


def test_entries_say_where_they_are_from(tmp_path: Path) -> None:
    filled(tmp_path / "index")
    index = Index.open(tmp_path / "index")
    entry = index.entries[0]
    assert (entry.name, entry.samples, entry.documents) == ("task 1", 60, 20)
    assert (entry.model, entry.text) == ("made up", "task 1.txt")
    assert (entry.tags, entry.licence, entry.note) == (("first", "made up"), "CC0", "a note")
    assert entry.sha256 == digest_of(OTHERS[0])
    assert entry.added.endswith("+00:00")
    assert Entry.from_json(entry.to_json()) == entry
    assert len(index) == 11
    assert "task 11" in entries_text(index.entries).splitlines()[-1]


def test_names_are_replaced_on_request_alone(tmp_path: Path) -> None:
    index = filled(tmp_path / "index")
    again = random_signature("task 4", 99)
    with pytest.raises(UnembedError, match="'task 4' already"):
        index.add([random_signature("new", 5), again])
    assert len(index) == 11
    index.add([again], replace=True)
    assert len(index) == len(Index.open(tmp_path / "index")) == 11
    assert [e.sha256 for e in index.entries if e.name == "task 4"] == [digest_of(again)]
    with pytest.raises(UnembedError, match="two signatures are named 'x'"):
        index.add([random_signature("x", 1), random_signature("x", 2)], replace=True)
    with pytest.raises(UnembedError, match="no entry named 'x'"):
        index.remove(["task 1", "x"])
    assert len(index) == 11
    with pytest.raises(UnembedError, match="is no name"):
        index.add([random_signature("two\nlines", 1)])


def test_what_does_not_compare_is_refused(tmp_path: Path) -> None:
    index = filled(tmp_path / "index", by="gradient")
    with pytest.raises(UnembedError, match=r"has m 64 and wide m 128"):
        index.add([random_signature("wide", 1, m=128)])
    with pytest.raises(UnembedError, match="has m 64 and wide m 128"):
        index.query(random_signature("wide", 1, m=128))
    with pytest.raises(UnembedError, match=r"keeps no gradient features.*--first-moment"):
        index.add([random_signature("other", 30, first=False)])
    with pytest.raises(UnembedError, match="--top is 0"):
        index.query(QUERY, 0)
    assert len(index) == len(Index.open(tmp_path / "index")) == 11


def test_removed_entries_are_not_found_and_their_room_is_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = filled(folder)
    before = index.vectors()
    size = (folder / "vectors-000001.bin").stat().st_size
    index.remove(["task 2", "task 9"])
    assert (folder / "vectors-000001.bin").stat().st_size == size
    left = [one for one in OTHERS if one.name not in ("task 2", "task 9")]
    assert [m.entry.name for m in index.query(QUERY, 20).matches] == ranked(QUERY, left)
    reader = Index.open(folder)
    index.remove([f"task {i}" for i in (1, 3, 4, 5)])
    assert not (folder / "vectors-000001.bin").exists()
    assert (folder / "vectors-000002.bin").stat().st_size == size / 11 * 5
    left = [one for one in left if one.name not in {f"task {i}" for i in (1, 3, 4, 5)}]
    for one in (index, Index.open(folder)):
        assert [m.entry.name for m in one.query(QUERY, 20).matches] == ranked(QUERY, left)
        np.testing.assert_array_equal(one.vectors(), before[[5, 6, 7, 9, 10]])
    # A reader goes on with the files that it opened.
    assert len(reader) == 9
    np.testing.assert_array_equal(reader.vectors(), before[[0, 2, 3, 4, 5, 6, 7, 9, 10]])
    reader.refresh()
    assert len(reader) == 5
    index.remove([entry.name for entry in index.entries])
    assert len(index) == 0
    assert index.query(QUERY).matches == ()
    assert "empty" in answer_text(index.query(QUERY))
    index.add([OTHERS[0]])
    assert Index.open(folder).query(QUERY).matches[0].entry.name == "task 1"


def test_a_reader_sees_one_moment(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", IDENTITY)
    index.add(OTHERS[:2])
    reader = Index.open(tmp_path / "index")
    other = Index.open(tmp_path / "index")
    index.add(OTHERS[2:5])
    other.add(OTHERS[5:6])
    index.remove(["task 1"])
    assert [entry.name for entry in reader.entries] == ["task 1", "task 2"]
    assert len(reader.query(QUERY).matches) == 2
    reader.refresh()
    assert [entry.name for entry in reader.entries] == [f"task {i}" for i in (2, 3, 4, 5, 6)]
    # One that is refused has seen what others did.
    index.add(OTHERS[6:8])
    with pytest.raises(UnembedError, match="already"):
        reader.add(OTHERS[7:9])
    assert len(reader.query(QUERY).matches) == len(reader) == 7


def test_many_changes_through_segments_and_compactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a dictionary, the index being opened anew now and then, with a small journal."""
    monkeypatch.setattr(ledger, "LEAST_JOURNAL", 5)
    monkeypatch.setattr(growth, "MOST_UNSIEVED", 3)
    monkeypatch.setattr(growth, "LEAST_ROWS", 12)
    draw, folder = random.Random(4), tmp_path / "index"
    index, want = Index.create(folder, IDENTITY), {}
    pool = [random_signature("x", seed) for seed in range(30)]
    drawn, mostly_segments = 0, 0
    for turn in range(90):
        if turn % 7 == 0:
            index = Index.open(folder)
        kind = draw.choice(["add", "add", "replace", "remove"] if turn < 60 else ["remove", "add"])
        if kind == "remove" and want:
            names = draw.sample(sorted(want), draw.randint(1, min(4, len(want))))
            index.remove(names)
            want = {name: seed for name, seed in want.items() if name not in names}
        elif kind != "remove":
            names = [f"n{drawn + i}" for i in range(draw.randint(1, 4))]
            if kind == "replace" and want:
                names = draw.sample(sorted(want), 1)
            drawn += len(names)
            seeds = [draw.randrange(30) for _ in names]
            points = [points_of([pool[s]], "", IDENTITY, "joint")[0] for s in seeds]
            named = [
                PendingEntry(Entry(**{**vars(p.entry), "name": name}), p.vector, p.hashes)
                for p, name in zip(points, names, strict=True)
            ]
            index.put(named, replace=kind == "replace")
            want = {name: seed for name, seed in want.items() if name not in names}
            want |= dict(zip(names, seeds, strict=True))
        assert [entry.name for entry in index.entries] == list(want)
        mostly_segments += index._ledger.header.rows > len(index._ledger.tail)
        if turn % 10 == 0:
            vectors = [
                points_of([pool[seed]], "", IDENTITY, "joint")[0].vector for seed in want.values()
            ]
            if want:
                np.testing.assert_array_equal(index.vectors(), np.stack(vectors))
            index.verify()
    header = index._ledger.header
    assert header.generation > 2
    assert header.step > 12
    assert mostly_segments > 30
    assert {path.name for path in folder.iterdir()} == {*header.files, "index.json", ".lock"}


def made_points(vectors: np.ndarray) -> list[PendingEntry]:
    [point] = points_of(OTHERS[:1], "", IDENTITY, "joint")
    entry = point.entry
    return [
        PendingEntry(Entry(**{**vars(entry), "name": f"v{i}"}), x, np.zeros(0, np.uint64))
        for i, x in enumerate(vectors)
    ]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_sieve_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype
) -> None:
    """Clusters of cosines .3 to .9, some removed, some added behind the sieve."""
    monkeypatch.setattr(sieve, "WIDTH", 32)
    monkeypatch.setattr(nearest, "FIRST_ROWS", 20)
    monkeypatch.setattr(nearest, "SAMPLE_ROWS", 64)
    monkeypatch.setattr(ledger, "LEAST_JOURNAL", 64)
    monkeypatch.setattr(growth, "MOST_UNSIEVED", 64)
    monkeypatch.setattr(growth, "LEAST_ROWS", 256)
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(9, M))
    cluster = rng.integers(0, 9, 1500)
    share = np.linspace(0.3, 0.9, 9)[cluster, None]
    vectors = np.sqrt(share) * centres[cluster] + np.sqrt(1 - share) * rng.normal(size=(1500, M))
    # Debiased norms are smaller than plain ones, by a factor of each entry's own.
    vectors *= rng.uniform(1, 1.3, size=(1500, 1)) / np.sqrt(np.square(vectors).mean(1))[:, None]
    index = Index.create(tmp_path / "index", IDENTITY, dtype=dtype)
    for start in range(0, 1500, 300):
        index.put(made_points(vectors.astype(np.float32))[start : start + 300])
    index.remove([f"v{i}" for i in range(0, 1500, 4)])
    index.put(made_points(vectors[:1].astype(np.float32)))
    held = index._ledger
    assert held.sieve is not None
    assert 1000 < len(held.sieve.scales) < held.rows
    looked, missed = [], 0
    for i in range(60):
        query = centres[i % 9] + (0.3 + i % 2) * rng.normal(size=M)
        mean = torch.from_numpy(query / np.sqrt(np.square(query).mean())).float()
        want, scores, every = best_rows(held, mean, 10, sieved=False)
        got, found, closely = best_rows(held, mean, 10)
        assert every == held.rows
        missed += len(set(want.tolist()) - set(got.tolist()))
        same = np.isin(got, want)
        np.testing.assert_allclose(found[same], scores[np.isin(want, got)], rtol=1e-5)
        looked.append(closely)
        assert not set(got.tolist()) & held.removed
    assert missed <= 6  # of 600: recall .99
    assert np.mean(looked) < 0.7 * held.rows
    assert min(looked) >= 20


@pytest.fixture
def sieved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of 34 entries, 24 of them in a sieve that queries go by, of two additions to it."""
    monkeypatch.setattr(nearest, "FIRST_ROWS", 4)
    monkeypatch.setattr(nearest, "SAMPLE_ROWS", 4)
    monkeypatch.setattr(growth, "MOST_UNSIEVED", 12)
    monkeypatch.setattr(growth, "LEAST_ROWS", 12)
    index = Index.create(tmp_path / "index", IDENTITY)
    points = made_points(np.random.default_rng(0).normal(size=(34, M)).astype(np.float32))
    for start, end in ((0, 12), (12, 24), (24, 34)):
        index.put(points[start:end])
    assert index._ledger.sieved == 24
    return tmp_path / "index"


@pytest.mark.parametrize("file", ["sieve", "scales"])
def test_a_flipped_byte_of_a_sieve_is_told(sieved: Path, file: str) -> None:
    [path] = sieved.glob(f"{file}-*.bin")
    whole = path.read_bytes()
    index = Index.open(sieved)
    want = index.query(QUERY)
    for at in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        unchecked = Index.open(sieved, check=False)
        with pytest.raises(UnembedError, match=f"{path.name} is damaged.*delete it"):
            unchecked.query(QUERY)
        with pytest.raises(UnembedError, match=f"{path.name} is damaged"):
            Index.open(sieved)
        assert unchecked.query(QUERY, sieved=False).matches == want.matches
    # What was advised, and a file that is cut short: answers stay, and an addition makes it again.
    for left in (None, whole[:-1]):
        path.unlink()
        if left is not None:
            path.write_bytes(left)
        index = Index.open(sieved)
        assert index._ledger.sieve is None
        assert index.query(QUERY).matches == want.matches
        index.remove([index.entries[-1].name])
        assert Index.open(sieved)._ledger.whole_sieve() is not None
        assert path.stat().st_size > len(whole)


def test_a_sieve_without_checksums_is_made_again(
    sieved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an index of schema 1 has it."""
    monkeypatch.setattr(ledger, "LEAST_JOURNAL", 1)
    index = Index.open(sieved)
    index.remove([index.entries[0].name])
    index.put(made_points(np.ones((1, M), np.float32)), replace=True)
    want = index.query(QUERY)
    path = sieved / "index.json"
    plain = json.loads(path.read_text())
    assert plain["sieved"] > 0
    assert not (sieved / index._ledger.header.journal).read_bytes()
    del plain["sha256"], plain["sieve_crcs"]
    plain["schema"] = 1
    path.write_text(json.dumps({**plain, "sha256": files._seal(plain)}))
    old = Index.open(sieved)
    assert old._ledger.sieve is None
    assert old.query(QUERY).matches == want.matches
    old.remove([old.entries[-1].name])
    assert Index.open(sieved)._ledger.whole_sieve() is not None


def test_a_prefix_is_of_whole_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sieve, "WIDTH", 4)
    numbers = torch.arange(16.0)[None]
    assert sieve.prefix(numbers).tolist() == [[0, 1, 8, 9]]
    assert sieve.prefix(numbers[:, :4]).tolist() == [[0, 1, 2, 3]]


def test_int_products_by_float32_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (200, 48), generator=drawn, dtype=torch.int8)
    query = torch.randint(-127, 128, (48,), generator=drawn, dtype=torch.int8)
    want = codes.numpy().astype(np.int64) @ query.numpy().astype(np.int64)
    np.testing.assert_array_equal(sieve._int_products(codes, query), want)
    monkeypatch.delattr(torch, "_int_mm")
    np.testing.assert_array_equal(sieve._int_products(codes, query), want)


def test_maps_are_principal_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(tmp_path / "index")
    found = map_of(index)
    want = coordinates(index.vectors().astype(np.float64) / np.sqrt(M))
    np.testing.assert_allclose(found.points, want, atol=1e-5)
    assert found.names[0] == "task 1"
    assert found.tags == ("first",) * 7 + ("",) * 4
    assert found.samples == (60,) * 11
    assert 0.2 < found.explained[1] < found.explained[0] < 1
    apart = np.linalg.norm(found.points[:, None] - found.points, axis=2)
    vectors = index.vectors() / np.sqrt(M)
    assert (apart <= np.linalg.norm(vectors[:, None] - vectors, axis=2) + 1e-6).all()
    monkeypatch.setattr(plane, "MOST_EXACT", 3)
    np.testing.assert_allclose(map_of(index).points, found.points, atol=1e-4)
    monkeypatch.setattr(plane, "MOST_ENTRIES", 6)
    drawn = map_of(index)
    assert len(drawn.names) == 6
    assert drawn == drawn
    assert drawn.names == map_of(index).names != map_of(index, seed=3).names
    points, explained = principal(torch.zeros(3, 4), 0)
    assert explained == (0.0, 0.0)
    assert not points.any()
    index.remove([f"task {i}" for i in range(2, 12)])
    with pytest.raises(UnembedError, match="has 1 entries"):
        map_of(index)
