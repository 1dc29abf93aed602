"""Hidden states that others stored: read in their layouts, placed by test, refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import unembed
from made_up.corpora import TEXTS
from made_up.models import ARCHITECTURES, small_model
from unembed import Checkpoint, Corpus, audit, load
from unembed.decisions import AuditOptions
from unembed.decisions.slices.states import check_given
from unembed.demo.text import documents
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.models import Depths, StoredStates
from unembed.models.stored.head_and_tail import load_head_and_tail
from unembed.models.stored.norm_side import StoredTail, side_of
from unembed.text.windows import Windows

BUNDLED = Path(unembed.__file__).parent / "demo" / "model"
SENTENCES = [TEXTS[0], TEXTS[2], *(f"{text} Return the value of the name." for text in TEXTS)] * 2


@pytest.fixture(scope="module")
def whole() -> Checkpoint:
    return load(BUNDLED)


@pytest.fixture(scope="module")
def head() -> Checkpoint:
    """What is left of the model where its states are stored."""
    return load_head_and_tail(str(BUNDLED))[0]


@pytest.fixture(scope="module")
def rows(whole: Checkpoint) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids of each text, and the states that the first and the last block leave."""
    depths, found = Depths.of(whole.model), []
    for text in SENTENCES:
        ids = torch.tensor(whole.tokenizer(text)["input_ids"])
        with torch.no_grad():
            _, states = depths.block_list.read(whole.model, ids[None], [1, depths.blocks])
        layers = [depths.block_list.by_position(states[depth]) for depth in sorted(states)]
        found.append((ids, torch.stack(layers, dim=1)))
    return found


@pytest.fixture(scope="module")
def direct(whole: Checkpoint) -> unembed.Audit:
    return audit(whole.model, Corpus.from_texts(SENTENCES, whole.tokenizer))


def requests(folder: Path, rows: list[tuple[torch.Tensor, torch.Tensor]]) -> Path:
    """A file a request as vLLM's connector writes them, with the locks that it leaves."""
    folder.mkdir()
    for number, (ids, states) in enumerate(rows):
        file = folder / f"hs_{number}.safetensors"
        save_file({"token_ids": ids, "hidden_states": states.contiguous()}, file)
        file.with_name(f"{file.name}.lock").touch()
    return folder


def tables(
    folder: Path,
    rows: list[tuple[torch.Tensor, torch.Tensor]],
    kind: Any,
    *,
    document: list[str] | None = None,
) -> Path:
    """Parquet files of two row groups each, the last block's states as lists of a type."""
    folder.mkdir()
    size = rows[0][1].shape[-1]
    listed = [states[:, -1].numpy() for _ids, states in rows]
    column = [one.ravel().tolist() if kind == "flat" else one.tolist() for one in listed]
    types = {
        "lists": pa.list_(pa.list_(pa.float32())),
        "fixed": pa.large_list(pa.list_(pa.float32(), size)),
        "flat": pa.list_(pa.float64()),
    }
    held = {
        "token_ids": pa.array([ids.tolist() for ids, _ in rows], pa.list_(pa.int32())),
        "hidden_states": pa.array(column, types[kind]),
    }
    if document is not None:
        held["document"] = pa.array(document)
    table, half = pa.table(held), len(rows) // 2
    for name, part in (("a", table.slice(0, half)), ("b", table.slice(half))):
        pq.write_table(part, folder / f"{name}.parquet", row_group_size=2)
    return folder


def audited(folder: Path, model: Checkpoint, **more: Any) -> tuple[StoredStates, unembed.Audit]:
    stored = StoredStates.read(folder, model)
    return stored, audit(model.model, stored.corpus, AuditOptions(stored=stored, **more))


def is_as(made: unembed.Audit, direct: unembed.Audit) -> None:
    """The same decisions; the body read each row alone, and so rounded otherwise."""
    for name in ("doc", "pos", "target", "rank"):
        assert made.column(name).tolist() == direct.column(name).tolist(), name
    for name in ("margin", "nll", "hidden_norm"):
        assert made.column(name).tolist() == pytest.approx(direct.column(name), abs=2e-4), name


@pytest.mark.parametrize("without_last", [False, True])
def test_a_file_a_request_is_read_as_vllm_writes_it(
    head: Checkpoint, rows: Any, direct: unembed.Audit, without_last: bool, tmp_path: Path
) -> None:
    kept = [(ids, states[:-1] if without_last else states) for ids, states in rows]
    stored, made = audited(requests(tmp_path / "v", kept), head, native_head=False)
    is_as(made, direct)
    assert stored.side.side == "before-norm"
    assert stored.corpus.digest == unembed_digest(direct)
    assert stored.corpus.names[:3] == (
        "hs_0.safetensors",
        "hs_1.safetensors",
        "hs_2.safetensors",
    )
    assert stored.corpus.names[-1] == f"hs_{len(rows) - 1}.safetensors"
    said = "\n".join(stored.notes)
    assert "of 2 layers the last is read" in said
    assert ("the last token of each text has no state" in said) == without_last
    stated = made.provenance.options["hidden_states"]
    assert (stated["are"], stated["layer"]) == ("before-norm", "last of 2")
    changed = unembed.compare(direct, made)
    assert changed.summary.flips.churn.value == 0
    assert "another engine after" in "\n".join(changed.summary.notes)
    with pytest.raises(UnembedError, match="made of stored states, whose body is not known"):
        check_given(made.provenance, load(BUNDLED), stored.corpus, "audit")


def unembed_digest(made: unembed.Audit) -> str:
    return made.provenance.text.digest


@pytest.mark.parametrize("kind", ["lists", "fixed", "flat"])
def test_parquet_files_are_read_by_row_groups(
    head: Checkpoint, rows: Any, direct: unembed.Audit, kind: str, tmp_path: Path
) -> None:
    stored, made = audited(tables(tmp_path / "p", rows, kind), head, batch_tokens=64)
    is_as(made, direct)
    assert stored.side.side == "before-norm"
    assert stored.corpus.names[:2] == ("a.parquet: row 1", "a.parquet: row 2")


def test_rows_of_one_document_follow_each_other(
    head: Checkpoint, rows: Any, tmp_path: Path
) -> None:
    document = [f"d{number % 3}" for number in range(len(rows))]
    stored, made = audited(tables(tmp_path / "p", rows, "lists", document=document), head)
    assert stored.corpus.names == ("d0", "d1", "d2")
    sizes = [len(ids) for ids, _ in rows]
    second = made.column("pos")[made.column("doc") == 0]
    wanted = [*range(sizes[0] - 1), *range(sizes[0], sizes[0] + sizes[3] - 1)]
    assert second[: len(wanted)].tolist() == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_states_of_another_precision_than_the_model(
    head: Checkpoint, rows: Any, direct: unembed.Audit, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = requests(tmp_path / "v", [(ids, states.to(dtype)) for ids, states in rows])
    made = audited(folder, head)[1]
    assert made.column("nll").tolist() == pytest.approx(direct.column("nll"), abs=0.2)


def test_states_wider_than_the_model_are_not_rounded_to_it(
    rows: Any, whole: Checkpoint, tmp_path: Path
) -> None:
    narrow = load_head_and_tail(str(BUNDLED), dtype="bfloat16")[0]
    tail = StoredTail.of(whole.model)
    after = [(ids, tail(whole.model, states[:, -1])) for ids, states in rows]
    stored, made = audited(requests(tmp_path / "v", after), narrow)
    assert (stored.side.side, stored.dtype) == ("after-norm", torch.float32)
    norms = torch.cat([states[:-1].double().norm(dim=1) for _ids, states in after])
    assert made.column("hidden_norm").tolist() == pytest.approx(norms.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_size_of_a_state_says_where_it_lies(name: str) -> None:
    model = small_model(name)
    head, tail, depths = Head.of(model), StoredTail.of(model), Depths.of(model)
    ids = torch.arange(256).view(8, 32)
    with torch.no_grad():
        hidden, states = depths.block_list.read(model, ids, [depths.blocks])
    given = {
        "after-norm": hidden.flatten(0, 1),
        "before-norm": depths.block_list.by_position(states[depths.blocks]),
    }
    targets = ids.roll(-1).flatten()
    for side, some in given.items():
        # Nothing is said of them here, and of a random model no loss says anything.
        found = side_of("there", some, targets, model, head, tail, written=side)
        assert found.side == side
        other = next(one for one in given if one != side)
        with pytest.raises(UnembedError, match=f"its manifest says {other}, and its states"):
            side_of("there", some, targets, model, head, tail, written=other)  # type: ignore[arg-type]
    assert torch.equal(tail(model, given["before-norm"]), given["after-norm"])


def test_what_the_loss_says_where_more_than_a_norm_lies_before_the_head(
    whole: Checkpoint,
) -> None:
    model, tail = whole.model, StoredTail.of(whole.model)
    head, depths = Head.of(model), Depths.of(model)
    blind = StoredTail(tail.blocks, tail.shape, None, empty=False)
    text = " ".join(one.text for one in islice(documents("heldout"), 12))
    ids = torch.tensor(whole.tokenizer(text)["input_ids"])[:1040].view(8, 130)
    with torch.no_grad():
        after, states = depths.block_list.read(model, ids[:, :-1], [depths.blocks])
    before, targets = depths.block_list.by_position(states[depths.blocks]), ids[:, 1:].flatten()
    after = after.flatten(0, 1)
    for some, side in ((before, "before-norm"), (after, "after-norm")):
        found = side_of("there", some, targets, model, head, blind)
        assert (found.side, found.unit) == (side, None)
        other = "after-norm" if side == "before-norm" else "before-norm"
        with pytest.raises(UnembedError, match=f"--states-are says {other}, and its states lie"):
            side_of("there", some, targets, model, head, blind, asked=other)  # type: ignore[arg-type]
    few = slice(0, 4)
    with pytest.raises(UnembedError, match=r"is not clear .* give --states-are before-norm or"):
        side_of("there", after[few], targets[few], model, head, blind)
    asked = side_of("there", after[few], targets[few], model, head, blind, asked="after-norm")
    assert asked.side == "after-norm"
    with pytest.raises(UnembedError, match="is not proved, so that states before it cannot"):
        side_of("there", before, targets, model, head, None, asked="before-norm")
    with pytest.raises(UnembedError, match="give --states-are"):
        side_of("there", after, targets, model, head, None)


Spoil = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


def _with(**more: Any) -> Spoil:
    return lambda held: {
        name: more[name](tensor) if name in more else tensor for name, tensor in held.items()
    }


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda held: {"logits": held["hidden_states"]}, "hs_3.safetensors holds logits: stored"),
        (_with(hidden_states=lambda x: x[:-2]), r"hs_3.* holds \d+ states .* of \d+ tokens: there"),
        (_with(hidden_states=lambda x: x.to(torch.int32)), "hidden_states as I32, which is no"),
        (
            _with(hidden_states=lambda x: x.to(torch.float8_e4m3fn)),
            "hidden_states as F8_E4M3, which is no number without a scale: give one of BF16",
        ),
        (_with(hidden_states=lambda x: x.half()), "192 numbers in torch.float16, and .*hs_0"),
        (_with(hidden_states=lambda x: x[:, 1:]), "has 1 layers of 192"),
        (_with(hidden_states=lambda x: x[..., :64]), "hs_3.* has 2 layers of 64 numbers"),
        (_with(hidden_states=lambda x: x[:, 0, 0]), r"hidden_states of shape \(\d+,\): give token"),
        (
            _with(hidden_states=lambda x: x[:, :0]),
            r"of shape \(\d+, 0, 192\), which are no numbers",
        ),
        (_with(token_ids=lambda x: x.float()), "holds token_ids as F32: give whole numbers"),
        (_with(token_ids=lambda x: x - 9000), "among its token_ids, which is no token"),
        (_with(token_ids=lambda x: x + 9000), "the text holds token id .* has a vocabulary of"),
    ],
)
def test_a_file_that_does_not_fit_is_named_before_the_work(
    head: Checkpoint, rows: Any, spoil: Spoil, words: str, tmp_path: Path
) -> None:
    folder = requests(tmp_path / "v", rows)
    file = folder / "hs_3.safetensors"
    spoilt = {name: one.contiguous() for name, one in spoil(load_file(file)).items()}
    save_file(spoilt, file)
    with pytest.raises(UnembedError, match=words):
        StoredStates.read(folder, head)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (None, b"", "is empty, and no stored states: give a folder of unembed states"),
        ("notes.txt", b"no", r"holds 1 files \(first: notes.txt\), and no stored states"),
        ("hs_0.pt", b"\x80", "only in files such as hs_0.pt, which can run code"),
        ("x.safetensors.zst", b"\x28", "is packed: unpack such files"),
        ("x.safetensors", b"\0" * 99, "x.safetensors is damaged or no safetensors file"),
        ("x.safetensors", b"", "x.safetensors is damaged or no safetensors file"),
        ("x.parquet", b"PAR1", "x.parquet is damaged or no Parquet file"),
    ],
)
def test_a_folder_without_stored_states_is_refused(
    head: Checkpoint, name: str | None, data: bytes, words: str, tmp_path: Path
) -> None:
    if name is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UnembedError, match=words):
        StoredStates.read(tmp_path, head)


def test_states_that_nobody_wrote_are_refused(head: Checkpoint, rows: Any, tmp_path: Path) -> None:
    # Equal logits lose log V to a rounding, which lies on either side of guessing.
    ids, states = rows[1]
    blank = torch.zeros_like(states)
    folder = requests(tmp_path / "v", [rows[0], (ids, blank), *rows[2:]])
    with pytest.raises(UnembedError, match=r"\d+ of \d+ states tried are nothing but zeros"):
        StoredStates.read(folder, head)


def test_more_that_is_refused_of_folders(head: Checkpoint, rows: Any, tmp_path: Path) -> None:
    folder = requests(tmp_path / "v", rows)
    pq.write_table(pa.table({"text": ["a"]}), folder / "more.parquet")
    with pytest.raises(UnembedError, match=r"holds \d+ .safetensors and 1 .parquet files"):
        StoredStates.read(folder, head)
    with pytest.raises(UnembedError, match="has columns text and none 'token_ids'"):
        StoredStates.read(folder / "more.parquet", head)
    with pytest.raises(UnembedError, match="no such folder of stored states"):
        StoredStates.read(tmp_path / "nowhere", head)
    with pytest.raises(UnembedError, match="holds model"):
        StoredStates.read(BUNDLED / "model.safetensors", head)
    one = StoredStates.read(folder / "hs_2.safetensors", head, states_are="before-norm")
    assert one.corpus.names == ("hs_2.safetensors",)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"hidden_states": pa.array([[[1, 2]] * 3] * 2)}, "hidden_states as list.*: give lists of"),
        (
            {"token_ids": pa.array([["a", "b", "c"]] * 2)},
            "token_ids as list.*: give lists of whole",
        ),
        (
            {"hidden_states": pa.array([[[1.0] * 192] * 3, [[1.0] * 192] * 2])},
            "has 2 states in entry 2 of row group 0, where 3 are needed",
        ),
        (
            {"hidden_states": pa.array([[[1.0] * 192] * 5, [[1.0] * 192] * 3])},
            "holds 5 states of 3 tokens in row 1 of row group 0: there must be one a token",
        ),
    ],
)
def test_parquet_that_does_not_fit_is_refused(
    head: Checkpoint, column: dict[str, Any], words: str, tmp_path: Path
) -> None:
    held = {
        "token_ids": pa.array([[1, 2, 3]] * 2),
        "hidden_states": pa.array([[[1.0] * 192] * 3] * 2),
    }
    pq.write_table(pa.table(held | column), tmp_path / "x.parquet")
    with pytest.raises(UnembedError, match=words):
        StoredStates.read(tmp_path, head)


def test_a_null_within_a_parquet_file_is_named_when_it_is_read(
    head: Checkpoint, rows: Any, tmp_path: Path
) -> None:
    folder = tables(tmp_path / "p", rows, "lists")
    table = pq.read_table(folder / "b.parquet")
    states = table["hidden_states"].to_pylist()
    states[-1][2] = None
    spoilt = table.set_column(
        1, "hidden_states", pa.array(states, table.schema.field("hidden_states").type)
    )
    pq.write_table(spoilt, folder / "b.parquet", row_group_size=2)
    with pytest.raises(UnembedError, match="row group 2"):
        audited(folder, head)


def test_states_of_another_model_are_refused_by_their_loss(
    head: Checkpoint, rows: Any, tmp_path: Path
) -> None:
    """Of the right width, and of tokens that they do not belong to."""
    shuffled = [(ids, states.flip(2)) for ids, states in rows]
    folder = requests(tmp_path / "v", shuffled)
    words = r"no better than guessing among 8,\d\d\d tokens \(9\.0\d; .*another model's"
    with pytest.raises(UnembedError, match=words):
        StoredStates.read(folder, head, states_are="before-norm")
    narrow = requests(tmp_path / "w", [(ids, states[..., :64]) for ids, states in rows])
    with pytest.raises(UnembedError, match=r"has states of 64 numbers, and the head .* reads 192"):
        StoredStates.read(narrow, head)


def test_a_state_that_is_no_number_is_named_by_its_file(
    head: Checkpoint, rows: Any, tmp_path: Path
) -> None:
    folder = requests(tmp_path / "v", rows)
    file = folder / "hs_5.safetensors"
    held = load_file(file)
    held["hidden_states"][3] = float("nan")
    save_file(held, file)
    with pytest.raises(UnembedError, match=r"finite at document 'hs_5\.safetensors' .* position 3"):
        audited(folder, head)
    made = audited(folder, head, max_nonfinite=1)[1]
    assert made.summary.n_nonfinite == 1


def test_a_sketch_of_stored_states_is_that_of_the_text(
    head: Checkpoint, whole: Checkpoint, tmp_path: Path
) -> None:
    from unembed.models import StatesOptions, states

    text = Corpus.from_texts(SENTENCES, whole.tokenizer)
    states(whole.model, text, tmp_path / "s", StatesOptions())
    stored = StoredStates.read(tmp_path / "s", head)
    options = unembed.SketchOptions(m=64)
    direct = unembed.sketch(whole, text, options, task="text")
    given = unembed.SketchOptions(m=64, stored=stored)
    made = unembed.sketch(head, stored.corpus, given, task="states")
    assert made.identity == direct.identity
    aligned = unembed.align([direct, made])
    assert float(aligned.joint.value[0, 1]) == pytest.approx(1, abs=1e-6)
    few = stored.windows(None, 50, spread=True)
    wanted = Windows.of(text, few.context, max_positions=50, spread=True)
    assert (few.start.tolist(), few.length.tolist()) == (
        wanted.start.tolist(),
        wanted.length.tolist(),
    )
