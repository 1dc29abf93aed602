"""Every figure of a summary, a row each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import unembed
from made_up import alignments, doses, selection
from made_up.comparisons import make_comparison
from made_up.refinements import make_summary
from unembed.runs.frames import FIGURE
from unembed.selection import JudgedTransfer
from unembed.stats.estimate import Estimate
from unembed.training.doses.table import dose_table


def framed(record: Any) -> pd.DataFrame:
    """By name, each once."""
    frame = record.to_pandas()
    assert frame.columns.tolist() == FIGURE.names
    assert frame["name"].is_unique
    assert len(frame) > 0
    assert (frame["value"].notna() | (frame["reason"].fillna("") != "")).all()
    return frame.set_index("name")


def check(frame: pd.DataFrame, name: str, estimate: Estimate) -> None:
    row = frame.loc[name]
    for column in ("value", "low", "high", "reason"):
        expected = getattr(estimate, column)
        assert pd.isna(row[column]) if expected is None else row[column] == expected, column
    assert row["n"] == estimate.n


def test_of_an_audit() -> None:
    summary = doses.Grid().start.summary
    frame = framed(summary)
    check(frame, "median_margin", summary.median_margin)
    check(frame, "margin_quantiles.95", summary.margin_quantiles["95"])
    check(frame, "bands.0.accuracy", summary.bands[0].accuracy)
    assert frame.loc["n_positions", "value"] == summary.n_positions
    assert not frame.index.str.contains("histogram.right").any()
    if summary.gap is None:
        assert frame.loc["gap", "reason"] == summary.gap_reason
    else:
        check(frame, "gap.published.beta", summary.gap.published.beta)


def test_of_an_audit_without_a_gap() -> None:
    summary = doses.Grid(n=14).start.summary
    assert summary.gap is None
    row = framed(summary).loc["gap"]
    assert pd.isna(row["value"])
    assert row["reason"] == summary.gap_reason


def test_of_a_comparison() -> None:
    summary = make_comparison().summary
    frame = framed(summary)
    check(frame, "flips.churn", summary.flips.churn)
    check(frame, "flips.clustered_mcnemar_p", summary.flips.clustered_mcnemar_p)
    [numeric] = [group for group in summary.by_class if group.name == "numeric"]
    check(frame, "by_class.numeric.flips.churn", numeric.flips.churn)
    check(frame, "movement.rotation.share", summary.movement.rotation.share)
    gained = summary.tokens.gaining[0]
    assert frame.loc[f"tokens.gaining.{gained.token}.net", "value"] == gained.net


def test_of_a_refinement_and_of_doses() -> None:
    refined = make_summary()
    frame = framed(refined)
    check(frame, "heldout.flips.churn", refined.heldout.flips.churn)
    assert frame.loc["weight", "value"] == 0.6
    assert frame.loc["log.7.loss", "value"] == refined.log[6].loss
    grid = doses.Grid(n=150)
    table = dose_table(grid.start, grid.points(seeds=(0,), objectives=("fisher",)), resamples=20)
    frame = framed(table)
    [row] = [row for row in table.rows if row.name == "fisher 0.3"]
    check(frame, "rows.fisher 0.3.figures.nll_rise", row.figures.nll_rise)
    both = framed(unembed.Doses(table, table, {}))
    assert len(both) == 2 * len(frame)
    check(both, "training.rows.fisher 0.3.figures.nll_rise", row.figures.nll_rise)


def test_of_a_ranking() -> None:
    found = selection.ranking(5, missing=1)
    frame = framed(found)
    first, last = found.sources[0], found.sources[-1]
    row = frame.loc[f"sources.{first.name}"]
    assert (row["value"], row["low"], row["high"]) == (first.value, first.low, first.high)
    assert row["n"] == first.samples
    assert frame.loc[f"sources.{first.name}.best", "value"] == first.best
    assert frame.loc[f"sources.{last.name}", "reason"] == last.status


def test_of_a_mixture_and_of_transfer() -> None:
    found = selection.mixture(4)
    frame = framed(found)
    check(frame, "residual", found.residual)
    check(frame, f"shares.{found.shares[1].name}.weight", found.shares[1].weight)
    judged = JudgedTransfer(selection.transfer(4), selection.verdicts())
    frame = framed(judged)
    check(frame, "verdicts.oracle.share", judged.verdicts[-1].share)


def test_of_alignments() -> None:
    found = alignments.example(4, missing=(3,))
    frame = framed(found)
    names = found.names
    row = frame.loc[f"joint.{names[0]}.{names[2]}"]
    assert row["value"] == found.joint.value[0, 2]
    assert (row["low"], row["high"]) == (found.joint.low[0, 2], found.joint.high[0, 2])
    assert frame.loc[f"coupling.{names[0]}.{names[3]}", "reason"] == "cannot be estimated"
    assert frame.loc[f"tasks.{names[1]}.samples", "value"] == found.tasks[1].samples
    assert frame.index.str.startswith("joint.").sum() == 6
    assert np.isfinite(frame.loc[f"proxy.{names[0]}.{names[1]}", "value"])


def test_pandas_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.runs.frames.find_spec", lambda _name: None)
    with pytest.raises(unembed.UnembedError, match="pip install pandas"):
        selection.ranking(2).to_pandas()
