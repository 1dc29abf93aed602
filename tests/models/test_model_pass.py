"""What a pass says of its batches: windows longer than one, and memory that runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from made_up.corpora import TEXTS
from unembed import Corpus, audit
from unembed.decisions import AuditOptions
from unembed.errors import UnembedError
from unembed.models import model_pass


@pytest.fixture(scope="module")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS[:6], tokenizer)


def test_windows_longer_than_a_batch_are_said_to_be_read_alone(
    llama: Any, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    small = audit(llama, corpus, AuditOptions(context=12, batch_tokens=5), progress=True)
    assert capsys.readouterr().err.splitlines()[0] == (
        "windows of up to 12 tokens are longer than a batch (--batch-tokens 5): each of those is "
        "read alone"
    )
    whole = audit(llama, corpus, AuditOptions(context=12), progress=True)
    assert "read alone" not in capsys.readouterr().err
    assert small.column("top1").tolist() == whole.column("top1").tolist()
    assert small.column("margin").tolist() == pytest.approx(
        whole.column("margin").tolist(), abs=1e-4
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize(
    ("batch_tokens", "remedy"),
    [(512, "give --batch-tokens 256"), (13, "give --batch-tokens 12"), (12, "give --context 6")],
)
def test_a_device_that_runs_out_of_memory_names_the_setting(
    llama: Any,
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
    batch_tokens: int,
    remedy: str,
) -> None:
    def full(*_args: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr(model_pass, "final_hidden", full)
    with pytest.raises(UnembedError, match=f"memory ran out at {batch_tokens} tokens.*{remedy},"):
        audit(llama, corpus, AuditOptions(context=12, batch_tokens=batch_tokens))


def test_another_failure_is_left_as_it_is(
    llama: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model_pass, "final_hidden", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        audit(llama, corpus, AuditOptions(context=12))
