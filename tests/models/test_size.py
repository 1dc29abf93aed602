from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from unembed.errors import UnembedError
from unembed.models import checkpoint
from unembed.models.checkpoint import load


@pytest.mark.parametrize(
    ("key", "value", "asked"),
    [
        ("num_hidden_layers", 1_000_000, "1,000,000 layers"),
        ("hidden_size", 1_000_000, "a model of .* numbers"),
        ("vocab_size", 10**9, "a model of .* numbers"),
        ("intermediate_size", 10**8, "a model of .* numbers"),
    ],
)
def test_a_model_far_larger_than_its_files_is_refused_before_it_is_made(
    llama_folder: Path, tmp_path: Path, key: str, value: int, asked: str
) -> None:
    """It would take minutes, or all memory, to draw the weights that are missing."""
    folder = Path(shutil.copytree(llama_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UnembedError, match=f"{asked}, and its files hold"):
        load(folder)


def test_counting_leaves_the_configuration_as_it_was(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(llama_folder).model.config.to_dict()
    monkeypatch.setattr(checkpoint, "refuse_larger", lambda *_args, **_how: None)
    assert load(llama_folder).model.config.to_dict() == before
