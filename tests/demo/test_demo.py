"""The bundled model, and the story that the demo tells with it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unembed.decisions.comparison.compare import Comparison
from unembed.decisions.layers.layers import Layers
from unembed.demo import story
from unembed.demo import transfer as measured
from unembed.demo.findings import findings
from unembed.demo.topics import Topic, listings, topics
from unembed.errors import UnembedError
from unembed.head.head import Head
from unembed.models.checkpoint import Checkpoint, load
from unembed.report.pages import GALLERY, write_gallery
from unembed.text.corpus import Corpus
from unembed.training.run import engine
from unembed.training.run.refinement import Refinement

LIMIT_BYTES = 8_000_000
SIX = (
    "bytecode of asyncio",
    "bytecode of email",
    "bytecode of unittest",
    "steps",
    "powers",
    "sums",
)


def some_of(every: dict[str, Topic], names: tuple[str, ...]) -> dict[str, Topic]:
    return {name: every[name] for name in names}


def haiku(checkpoint: Checkpoint) -> dict[str, Topic]:
    text = Corpus.from_texts(["a b"] * 2, checkpoint.tokenizer)
    return {"haiku": Topic(text, text)}


def test_the_bundled_model_is_small_and_whole() -> None:
    folder = story.bundled_model()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= LIMIT_BYTES
    checkpoint = load(folder)
    head = Head.of(checkpoint.model)
    assert head.weight.dtype == torch.float32
    assert head.vocab == len(checkpoint.tokenizer) >= 8192
    text = "def main() -> None:\n    print('ok')\n"
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer(text)["input_ids"]) == text


def test_the_demo_audits_heldout_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "POSITIONS", 4000)
    monkeypatch.setattr(story, "LAYERS", replace(story.LAYERS, max_positions=900, cloud_points=200))
    short = replace(story.RECIPE, steps=2, context=32, audit_positions=300, watch_positions=60)
    monkeypatch.setattr(story, "RECIPE", short)
    monkeypatch.setattr(story, "OBJECTIVES", (("margin", 0.15), ("entropy", 0.1)))
    monkeypatch.setattr(story, "TOPIC_POSITIONS", 1600)
    monkeypatch.setattr(story, "LISTING_POSITIONS", 600)
    few = "language reference", "docstrings in C", "tkinter"
    monkeypatch.setattr(story, "topics", lambda one: some_of(topics(one), few) | haiku(one))
    monkeypatch.setattr(story, "listings", lambda one: some_of(listings(one), SIX))
    monkeypatch.setattr(measured, "TRAINING", replace(measured.TRAINING, steps=4))
    told = story.run_demo(tmp_path / "run")
    done = told.audit
    assert "bfloat16" in told.rounded
    for name, rounded in told.rounded.items():
        assert len(done) == len(rounded) == 4000
        assert Comparison.load(tmp_path / "run" / name).summary == rounded.summary
        flips = rounded.summary.flips
        assert 0 < flips.changed < 400  # rounding to 8 bits changes about one decision in a hundred
    deep = Layers.load(tmp_path / "run" / "layers")
    assert deep.summary == told.layers.summary
    assert (deep.summary.n_positions, deep.depths, len(deep.lenses)) == (900, (0, 1, 2, 3, 4, 5), 3)
    assert list(told.refined) == ["margin", "entropy"]
    controlled = [name for name, one in told.refined.items() if one.over_control is not None]
    assert controlled == ["margin"]
    for name, refined in told.refined.items():
        again = Refinement.load(tmp_path / "run" / "refined" / name)
        assert again.summary == refined.summary
        assert (again.summary.objective, again.summary.steps) == (name, 2)
        assert len(again.heldout) == len(again.training) == 300
    losses = [refined.summary.log[0].loss for refined in told.refined.values()]
    assert len(set(losses)) == 2
    assert told.topics.names == few[:2]
    assert all((task.samples, task.status[:2]) == (1600, "ok") for task in told.topics.tasks)
    assert told.dropped["haiku"] == "2 of 1,600 positions"
    assert told.dropped["tkinter"].startswith("few samples: n = 1,600, participation ratio ")
    transfer = told.transfer.transfer
    assert transfer.tasks == SIX
    kinds = np.arange(len(SIX)) // 3
    [gains] = transfer.gains
    own, others = kinds[:, None] == kinds, kinds[:, None] != kinds
    assert gains[own].mean() > 5 * abs(gains[others].mean())  # bytecode helps bytecode
    assert {one.method for one in told.transfer.verdicts} >= {"joint", "gradient", "unigram"}
    loss = done.summary.nll_nats.value
    assert loss is not None
    assert loss < 5.5  # text in one language guessed by token frequency alone costs 7.1
    index = write_gallery(told.places, tmp_path / "run" / GALLERY)
    links = set(re.findall('href="([^"#]*)"', index.read_text(encoding="utf-8")))
    assert {str(one.page) for one in findings(told)} <= links
    index.write_text("my own start page")
    with pytest.raises(UnembedError, match=r"index\.html holds what unembed did not make"):
        story.run_demo(tmp_path / "run")
    index.unlink()
    with monkeypatch.context() as other:
        other.setattr(story, "NAME", "another model")
        with pytest.raises(UnembedError, match="holds an audit of the bundled model"):
            story.run_demo(tmp_path / "run")
    monkeypatch.setattr(engine, "find_spec", lambda _name: None)
    again = story.run_demo(tmp_path / "run")
    assert again.refined == {}
    assert not (tmp_path / "run" / "refined").exists()
    assert again.audit.summary == done.summary
    assert [one.summary for one in again.rounded.values()] == [
        one.summary for one in told.rounded.values()
    ]


def test_the_demo_never_clears_a_folder_of_yours(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UnembedError, match="no run of unembed"):
        story.run_demo(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
