"""A card that repeats a page, and a folder that ``datasets`` loads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from made_up.logs import write_logs
from made_up.records import RECORDS
from unembed.decisions.benchmarks.compare import compare_logs
from unembed.decisions.quoting import Quoting
from unembed.errors import UnembedError
from unembed.report.exports import for_markdown
from unembed.report.hub.card import card_of, write_card
from unembed.report.hub.dataset import tables_of, write_dataset
from unembed.report.hub.page_words import PageWords, words_of
from unembed.report.hub.results import hub_results, results_of
from unembed.report.parts.page import template
from unembed.runs.run_record import RunRecord

ABOUT_A_MODEL = ("audit", "comparison", "refinement", "benchmarks")
"""Those made up with what they were measured on; a live comparison is made up without."""


@pytest.fixture(scope="module", params=[kind for kind in RECORDS if kind != "index"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("drawn", ["audit", "benchmarks", "mixture"])
def test_a_card_says_what_the_page_says(drawn: str, tmp_path: Path) -> None:
    record: Any = RECORDS[drawn]()
    page = record.report(tmp_path / "page.html")
    written = write_card(record, page, tmp_path / "card")
    card = (tmp_path / "card" / "README.md").read_text()
    assert written[0] == tmp_path / "card" / "README.md"
    words = words_of(page.read_text())
    for said in (words.title, words.extent, *words.notes):
        assert said
        assert for_markdown(said) in card
    assert ('<dl class="cards">' in page.read_text()) == bool(words.cards)
    for one in words.cards:
        assert f"| {for_markdown(one.label)} | {for_markdown(one.value)} |" in card
    # Again, over its own file.
    assert write_card(record, page, tmp_path / "card") == written


def test_a_card_has_verdict_tables_and_the_metadata_of_one_model(kind: str) -> None:
    record: Any = RECORDS[kind]()
    card = card_of(record, PageWords("A title", "", (), (), (("Text", "a.txt"),)))
    verdict = record.verdict
    for said in (verdict.sentence, verdict.quality, verdict.change, verdict.trust):
        assert for_markdown(said) in card
    assert 0 < card.count("<details>") == card.count("</details>")
    assert "| Text | a.txt |" in card
    found = results_of(record)
    if kind not in ABOUT_A_MODEL:
        assert found is None
        assert not card.startswith("---")
        return
    assert found is not None
    data = ModelCard(card).data
    assert data.model_name == found.model
    _, read = model_index_to_eval_results(data.to_dict()["model-index"])
    values = {(one.dataset_name, one.metric_type): one.metric_value for one in read}
    assert len(values) == len(found.results)
    for one in found.results:
        assert values[one.dataset, one.kind] == pytest.approx(float(one.estimate), rel=1e-5)


def test_scores_on_data_of_the_hub_are_evaluation_results(tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    if not hasattr(huggingface_hub, "parse_eval_result_entries"):
        pytest.skip("this huggingface_hub does not know .eval_results")
    import yaml

    scores = {"gpqa": {"acc": [1.0, 0.0, 1.0, 1.0]}, "mine": {"acc": [1.0] * 4}}
    configs = {
        "gpqa": {"dataset_path": "Idavidrein/gpqa", "dataset_name": "gpqa_diamond"},
        "mine": {"dataset_path": "json"},
    }
    for side in "ab":
        write_logs(tmp_path / side, scores, model=f"org/{side}", configs=configs)
    record = compare_logs(tmp_path / "a", tmp_path / "b", resamples=50)
    page = record.report(tmp_path / "page.html")
    _, *others = write_card(record, page, tmp_path / "card")
    assert others == [tmp_path / "card" / ".eval_results" / "gpqa.yaml"]
    [entry] = huggingface_hub.parse_eval_result_entries(yaml.safe_load(others[0].read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == (
        "Idavidrein/gpqa",
        "gpqa_diamond",
        0.75,
    )
    assert "task gpqa, acc, 75.0 %" in entry.notes
    assert list(hub_results(record)) == ["gpqa.yaml"]


def test_a_card_of_another_hand_is_left_alone(tmp_path: Path) -> None:
    record: Any = RECORDS["ranking"]()
    page = record.report(tmp_path / "page.html")
    (tmp_path / "README.md").write_text("# My model")
    with pytest.raises(UnembedError, match="holds what unembed did not make"):
        write_card(record, page, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My model"


def test_datasets_loads_the_rows_of_every_run(kind: str, tmp_path: Path) -> None:
    record: Any = RECORDS[kind]()
    folder = tmp_path / "rows"
    write_dataset(record, folder)
    tables = {name: pa.concat_tables(found()) for name, found in tables_of(record).items()}
    assert get_dataset_config_names(str(folder)) == list(tables)
    data = DatasetCard.load(folder / "README.md").data
    assert [one["config_name"] for one in data.configs if one.get("default")] == [
        next(iter(tables))
    ]
    for name, table in tables.items():
        if table.num_rows == 0:
            continue
        rows = load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert rows.column_names == table.column_names
        assert rows.num_rows == table.num_rows
        first, last = (
            table.slice(0, 1).to_pylist()[0],
            table.slice(table.num_rows - 1).to_pylist()[0],
        )
        assert str(rows[0]) == str(first)
        assert str(rows[-1]) == str(last)


@pytest.mark.parametrize("name", ["audit", "comparison"])
def test_positions_are_spelled_part_by_part_as_all_at_once(name: str) -> None:
    record: Any = RECORDS[name]()
    quoting = Quoting(record.vocabulary, record.documents, 5)
    whole = record.table
    for size in (3, 7, whole.num_rows):
        parts = [whole.slice(at, size) for at in range(0, whole.num_rows, size)]
        found = pa.concat_tables(quoting.spelled_parts(parts))
        assert found.equals(quoting.spelled(whole))


def test_a_data_set_is_written_again_over_itself_alone(tmp_path: Path) -> None:
    record: Any = RECORDS["ranking"]()
    folder = tmp_path / "rows"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "part-00000.parquet").write_bytes(b"theirs")
    with pytest.raises(UnembedError, match=r"holds other files .figures.: give a new folder"):
        write_dataset(record, folder)
    mine = tmp_path / "mine"
    written = write_dataset(record, mine)
    stale = mine / "figures" / "part-00007.parquet"
    stale.write_bytes(b"an earlier, longer run")
    assert write_dataset(record, mine) == written
    assert not stale.exists()


class Bare(RunRecord):
    KIND = "bare"


def test_a_run_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnembedError, match="a bare has no rows that make a data set"):
        write_dataset(Bare(), tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_the_words_of_a_page_are_read_as_they_stand() -> None:
    page = template("ranking").render(
        title="A & <b>",
        extent="3  sources,\n2 samples",
        notes=("One `note`.", "Two."),
        verdict=RECORDS["ranking"]().verdict,
        forest=None,
        facts=(("Text", "a\u00a0b"), ("Command", "unembed rank 'a b'")),
    )
    words = words_of(page)
    assert (words.title, words.extent) == ("A & <b>", "3 sources, 2 samples")
    assert words.notes == ("One `note`.", "Two.")
    assert words.facts == (("Text", "a\u00a0b"), ("Command", "unembed rank 'a b'"))
    assert words.cards == ()


def test_a_perplexity_is_published_as_itself_and_not_as_its_loss() -> None:
    record: Any = RECORDS["benchmarks"]()
    [wiki] = [one for one in record.entries if one.metric == "word_perplexity"]
    found = results_of(record)
    assert found is not None
    [one] = [one for one in found.results if one.kind == "word_perplexity"]
    assert float(one.estimate) == pytest.approx(math.exp(float(wiki.after)))
    assert one.estimate.low == pytest.approx(math.exp(wiki.after.low))
