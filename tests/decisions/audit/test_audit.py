"""The audit against plain transformers code, on real models of many architectures."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import reference.sweep
import unembed.models.model_pass as model_pass
from made_up.corpora import TEXTS
from made_up.models import ARCHITECTURES, small_model
from threads_as_ranks import launch
from unembed import Audit, Corpus, audit
from unembed.decisions import AuditOptions
from unembed.decisions.audit.excerpt import excerpts
from unembed.decisions.audit.run import AuditRun
from unembed.decisions.audit.summary import summary_to_json
from unembed.decisions.measure import ColumnChoice, measure
from unembed.errors import NonFiniteError, UnembedError
from unembed.head.head import Head
from unembed.head.precision import Precision
from unembed.models.checkpoint import token_ids
from unembed.runs import files
from unembed.runs.manifest import FinishedRun
from unembed.runs.ranks import Ranks


@pytest.fixture(scope="session")
def corpus(tokenizer: Any) -> Corpus:
    return Corpus.from_texts(TEXTS, tokenizer)


def plainly(model: Any, corpus: Corpus, context: int) -> dict[str, list[Any]]:
    """Every position's statistics from full float32 logits, a row at a time without padding."""
    found: dict[str, list[Any]] = {}
    for row in range(corpus.rows):
        ids = torch.tensor(corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]).long()
        for start in range(0, len(ids) - 1, context):
            window = ids[start : start + context + 1]
            with torch.no_grad():
                logits = model(input_ids=window[None, :-1]).logits[0].double()
            logits[:, len(corpus.tokenizer) :] = -torch.inf
            stats = reference.sweep.decisions(logits, window[1:], 3)
            stats["doc"] = [int(corpus.document[row])] * (len(window) - 1)
            stats["pos"] = list(range(start, start + len(window) - 1))
            stats["target"] = window[1:].tolist()
            for name, values in stats.items():
                found.setdefault(name, []).extend(values)
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_column_agrees_with_plain_transformers(name: str, small_tokenizer: Any) -> None:
    model = small_model(name)
    small = Corpus.from_texts(TEXTS, small_tokenizer)
    got = audit(model, small, AuditOptions(top_k=3, context=24, batch_tokens=64))
    want = plainly(model, small, 24)
    assert len(got) == len(want["doc"])
    for column in ("doc", "pos", "target", "rank"):
        assert got.column(column).tolist() == want[column], column
    assert got.column("top1").tolist() == [ids[0] for ids in want["topk_ids"]]
    assert got.column("top2").tolist() == [ids[1] for ids in want["topk_ids"]]
    assert got.table["topk_ids"].to_pylist() == want["topk_ids"]
    for column in ("margin", "nll", "entropy", "logsumexp", "sum_p2", "confidence"):
        assert got.column(column).tolist() == pytest.approx(want[column], abs=2e-4), column
    flat = np.concatenate(got.table["topk_logits"].to_pylist())
    assert flat.tolist() == pytest.approx(np.concatenate(want["topk_values"]).tolist(), abs=2e-4)


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_bitwise_the_same_in_any_batch(llama: Any, dtype: torch.dtype) -> None:
    head = Head.of(llama)
    head = Head.from_parts(head.weight.to(dtype), head.bias, head.scale, 30.0, head.valid)
    hidden = torch.randn(70, head.dim, generator=torch.Generator().manual_seed(0)).to(dtype) * 3
    targets = torch.arange(70) % head.vocab
    wanted = ColumnChoice(top_k=4, facets=True, native_head=dtype != torch.float32)
    precision = Precision.probe(head.weight)
    whole = measure(hidden, head, targets, wanted, precision)
    for size, threads in ((1, 1), (7, 1), (64, 2)):
        torch.set_num_threads(threads)
        pieces = [
            measure(h, head, t, wanted, precision)
            for h, t in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        for name, column in whole.items():
            joined = np.concatenate([piece[name] for piece in pieces])
            assert joined.tobytes() == column.tobytes(), (size, name)


@pytest.mark.usefixtures("threads_restored")
def test_an_audit_is_bitwise_the_same_on_any_number_of_threads(llama: Any, corpus: Corpus) -> None:
    options = AuditOptions(part_positions=40, batch_tokens=24)
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        runs.append(audit(llama, corpus, options))
        assert torch.get_num_threads() == threads
    for run in runs[1:]:
        assert run.table.equals(runs[0].table)
        assert run.provenance == runs[0].provenance


@pytest.mark.parametrize("route", ["ieee", "onednn"])
def test_the_body_takes_its_own_route(
    llama: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build has one float32 product")
    seen: set[str] = set()
    plain = model_pass.final_hidden

    def watched(*args: Any) -> torch.Tensor:
        seen.add(torch.backends.mkldnn.matmul.fp32_precision)
        return plain(*args)

    before = torch.backends.mkldnn.matmul.fp32_precision
    head_route = Precision("onednn", 1e-7, True, float32_route="onednn")
    monkeypatch.setattr(model_pass.Precision, "probe", staticmethod(lambda *_given: head_route))
    monkeypatch.setattr(model_pass, "faster_body_route", lambda *_args: route)
    monkeypatch.setattr(model_pass, "final_hidden", watched)
    audit(llama, corpus)
    assert seen == {"bf16" if route == "onednn" else "ieee"}
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_spread_positions_are_another_run(llama: Any, corpus: Corpus, tmp_path: Path) -> None:
    options = AuditOptions(context=24, max_positions=60)
    audit(llama, corpus, options, out=tmp_path / "run")
    with pytest.raises(UnembedError, match="spread"):
        audit(llama, corpus, replace(options, spread=True), out=tmp_path / "run")


def test_a_run_folder_holds_the_same_table(
    llama: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = AuditOptions(facets=True, part_positions=50)
    here = audit(llama, corpus, options)
    there = audit(llama, corpus, options, out=tmp_path / "run")
    assert len(list((tmp_path / "run" / "tokens").iterdir())) > 1
    assert pa.table(there).equals(pa.table(here))
    again = Audit.load(tmp_path / "run")
    assert again.table.equals(here.table)
    assert again.provenance == there.provenance
    assert again.vocabulary == here.vocabulary
    assert again.documents.equals(here.documents)
    assert again.summary == here.summary
    monkeypatch.setattr("unembed.decisions.audit.audit.read_summary", None)
    assert Audit.load(tmp_path / "run").summary == here.summary, "the run's own"


def test_a_run_of_an_earlier_version_is_summarised_anew(
    llama: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = audit(llama, corpus, out=tmp_path / "run")
    old = summary_to_json(replace(here.summary, bfloat16=None))
    monkeypatch.setattr(FinishedRun, "summary", lambda _run: old)
    assert Audit.load(tmp_path / "run").summary == here.summary


def test_an_audit_reads_well(llama: Any, corpus: Corpus) -> None:
    got = audit(llama, corpus, AuditOptions(top_k=2))
    frame = got.to_pandas()
    assert len(frame) == len(got) == corpus.tokens - corpus.rows
    assert list(frame.columns[:6]) == ["doc", "pos", "target", "top1", "top2", "margin"]
    assert "median margin (logits)" in str(got)
    assert "<table>" in got._repr_html_()
    assert got.vocabulary[int(frame.target[0])] in TEXTS[0]


def test_facets_are_never_further_than_the_runner_up(llama: Any, corpus: Corpus) -> None:
    got = audit(llama, corpus, AuditOptions(facets=True))
    facet = got.column("facet_distance") / got.column("hidden_norm")
    relative = got.column("relative_distance")
    assert bool((facet <= relative * (1 + 1e-5)).all())
    assert bool((got.column("facet") != got.column("top1")).all())
    same = got.column("facet") == got.column("top2")
    assert facet[same].tolist() == pytest.approx(relative[same].tolist(), rel=1e-5)


def test_the_native_head_is_what_the_model_itself_decides(llama: Any, corpus: Corpus) -> None:
    model = type(llama)(llama.config)
    model.load_state_dict(llama.state_dict())
    with torch.no_grad():
        model.lm_head.weight[-3:] = 100 * model.lm_head.weight[5]  # no tokens, and loud
    model = model.to(torch.bfloat16).eval()
    got = audit(model, corpus, AuditOptions(native_head=True, context=64))
    first = torch.tensor(corpus.ids[: corpus.starts[1]]).long()
    with torch.no_grad():
        logits = model(input_ids=first[None, :-1]).logits[0]
    assert logits.dtype == torch.bfloat16
    valid = logits[:, : len(corpus.tokenizer)].float()
    want = valid.max(1)
    assert got.column("native_top1")[: len(valid)].tolist() == want.indices.tolist()
    two = valid.topk(2).values
    assert got.column("native_margin")[: len(valid)].tolist() == (two[:, 0] - two[:, 1]).tolist()
    native = got.summary.native
    assert native is not None
    assert native.distinct_margins < native.distinct_margins_float32
    with pytest.raises(UnembedError, match="float32, so its native head is the exact one"):
        audit(llama, corpus, AuditOptions(native_head=True))


def test_the_limit_of_bad_rows_counts_those_of_all_ranks(
    llama: Any, corpus: Corpus, tmp_path: Path
) -> None:
    bad = int(corpus.ids[corpus.starts[1] + 2])
    models = [copy.deepcopy(llama), copy.deepcopy(llama)]
    for model in models:
        with torch.no_grad():
            model.get_input_embeddings().weight[bad] = torch.nan
    given = AuditOptions(context=24, batch_tokens=64, part_positions=60)
    allowed = audit(models[0], corpus, replace(given, max_nonfinite=corpus.tokens))
    whole = allowed.summary.n_nonfinite

    def work(limit: int, out: Path) -> Callable[[Ranks], Audit]:
        options = replace(given, max_nonfinite=limit)
        return lambda ranks: audit(models[ranks.process], corpus, options, out=out)

    first, second = launch(2, work(whole - 1, tmp_path / "run"))
    assert isinstance(first, NonFiniteError)
    assert f"after {whole - 1} such before it" in str(first)
    assert str(second) == f"rank 0: {first}"
    for found in launch(2, work(whole, tmp_path / "run")):
        assert found.table.equals(allowed.table)


def test_bad_rows_are_named_counted_and_left_out(llama: Any, corpus: Corpus) -> None:
    model = type(llama)(llama.config).eval()
    bad = int(corpus.ids[corpus.starts[1] + 2])
    with torch.no_grad():
        model.get_input_embeddings().weight[bad] = torch.nan
    with pytest.raises(NonFiniteError, match=r"document 'text \d' .*position \d+"):
        audit(model, corpus)
    hit = int((corpus.ids == bad).sum())
    assert hit < corpus.tokens // 2
    got = audit(model, corpus, AuditOptions(max_nonfinite=corpus.tokens))
    missing = got.table["margin"].null_count
    assert missing >= hit > 0
    assert got.summary.n_nonfinite == missing
    assert got.table["target"].null_count == 0
    assert got.table["topk_ids"].null_count == missing
    assert all(view.tokens for view in excerpts(got))


def test_excerpts_carry_the_text(llama: Any, corpus: Corpus) -> None:
    views = excerpts(audit(llama, corpus))
    assert [view.name for view in views] == list(corpus.names)
    for view, text in zip(views, TEXTS, strict=True):
        assert view.lead + "".join(token.text for token in view.tokens) == text
    token = views[0].tokens[0]
    assert len(token.candidates) == 5
    assert token.candidates[0][1] >= token.candidates[1][1]
    short = excerpts(audit(llama, corpus), tokens=12)
    assert 0 < sum(len(view.tokens) for view in short) <= 24
    two = excerpts(audit(llama, corpus, AuditOptions(top_k=0)))[0].tokens[0]
    assert [text for text, _p in two.candidates] == [text for text, _p in token.candidates[:2]]
    assert [p for _text, p in two.candidates] == pytest.approx(
        [p for _text, p in token.candidates[:2]]
    )


def test_a_foreign_tokenizer_is_refused(corpus: Corpus, checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(UnembedError, match="does not belong to this model"):
        audit(small_model("llama"), corpus)


def test_embeddings_that_were_not_resized_are_named(llama: Any, tokenizer: Any) -> None:
    more = copy.deepcopy(tokenizer)
    more.add_tokens(["<one>", "<two>", "<three>", "<four>"])
    text = Corpus.from_texts(["if this <four> that"], more)
    with pytest.raises(UnembedError) as caught:
        audit(llama, text)
    said = str(caught.value)
    assert said.startswith("the text holds token id 480, but LlamaForCausalLM has a vocabulary of")
    assert "embeddings were not resized when '<four>' was added" in said
    assert "model.resize_token_embeddings(481)" in said


def test_a_token_that_the_model_cuts_off_its_logits_is_named(llama: Any, tokenizer: Any) -> None:
    """Its loss would be infinite, though the model has a row for it."""

    class Cut(type(llama)):  # type: ignore[misc]
        def forward(self, *given: Any, **more: Any) -> Any:
            output = super().forward(*given, **more)
            output.logits = output.logits[..., :400]
            return output

    with torch.random.fork_rng(devices=[]):
        model = Cut(llama.config).eval()
    ids = range(400, len(tokenizer))
    token = next(i for i in ids if tokenizer(tokenizer.decode([i]))["input_ids"] == [i])
    spelt = tokenizer.convert_ids_to_tokens(token)
    with pytest.raises(UnembedError) as caught:
        audit(model, Corpus.from_texts([tokenizer.decode([0, token, token])], tokenizer))
    assert f"holds token id {token} ({spelt!r}), and Cut gives no logit" in str(caught.value)
    assert "beyond id 399" in str(caught.value)
    # Nothing predicts the first token of a row.
    assert len(audit(model, Corpus.from_texts([tokenizer.decode([token, 0])], tokenizer))) == 1


def test_more_candidates_than_tokens_are_refused(llama: Any, corpus: Corpus) -> None:
    tokens = Head.of(llama, token_ids(corpus.tokenizer)).tokens
    with pytest.raises(UnembedError, match=f"--top-k 2000 is more than the {tokens} tokens that"):
        audit(llama, corpus, AuditOptions(top_k=2000))
    AuditOptions().check_candidates(3, "a head of fewer tokens than the default lists")


def test_a_run_that_does_not_fit_is_refused_before_the_pass(
    llama: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one goes on where what is left fits."""
    free = [1000]
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _place: usage(1 << 40, 0, free[0]))
    monkeypatch.setattr(AuditRun, "parts", lambda *_given: pytest.fail("the pass was begun"))
    with pytest.raises(UnembedError) as caught:
        audit(llama, corpus, out=tmp_path / "run")
    said = str(caught.value)
    positions = audit_positions(llama, corpus)
    assert "run has 0.0 MiB free, and the tables of " + f"{positions:,} positions take" in said
    assert "make room, or give a folder where there is more" in said
    monkeypatch.undo()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _place: usage(1 << 40, 0, free[0]))
    free[0] = 100 * positions
    done = audit(llama, corpus, out=tmp_path / "run")
    free[0] = 0
    assert audit(llama, corpus, out=tmp_path / "run").table.equals(done.table)


def audit_positions(model: Any, corpus: Corpus) -> int:
    return AuditRun.of(model, corpus, AuditOptions(), "it").reading.windows.positions


@pytest.mark.parametrize("how", [{}, {"top_k": 0}, {"top_k": 9, "facets": True}])
def test_the_width_of_a_position_is_that_of_its_columns(
    how: dict[str, Any], llama: Any, corpus: Corpus
) -> None:
    found = audit(llama, corpus, AuditOptions(**how))
    wide = ColumnChoice(**how).bytes_a_position
    assert wide * len(found) == pytest.approx(found.table.nbytes, rel=0.1)
