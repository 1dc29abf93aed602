from __future__ import annotations

import numpy as np
import pytest

from unembed.stats import resampled
from unembed.stats.bootstrap import cluster, resample_weights
from unembed.stats.resampled import read_quantiles

LEVELS = ((0.05, 0.5, 1.0), (0.25,))


def in_parts(columns, inverse, sizes):
    """A reader of samples that gives these many rows at a time."""
    cuts = np.cumsum(sizes)[:-1]

    def read():
        parts = [np.split(column, cuts) for column in (*columns, inverse)]
        for *values, owners in zip(*parts, strict=True):
            yield [(one, owners) for one in values]

    return read


@pytest.mark.parametrize("kind", ["spread", "tied", "one value", "few documents"])
@pytest.mark.parametrize("held", [4, 64, 1 << 18])
def test_quantiles_read_in_parts_are_those_of_the_written_out_resamples(kind, held, monkeypatch):
    monkeypatch.setattr(resampled, "THINNED", held)
    monkeypatch.setattr(resampled, "STEP_POSITIONS", 100)
    generator = np.random.default_rng(held)
    n, documents = 700, 3 if kind == "few documents" else 25
    inverse, count = cluster(np.sort(generator.integers(0, documents, n)))
    values = generator.normal(size=n) + generator.standard_t(2, documents)[inverse]
    if kind == "tied":
        values = np.round(values)
    if kind == "one value":
        values = np.full(n, 0.1, dtype=np.float32)
    read = in_parts((values, np.abs(values)), inverse, [1, 299, 0, 250, 150])
    found = read_quantiles(read, LEVELS, count, resamples=40, seed=3)
    weights = np.concatenate(
        [np.ones((1, count)), *resample_weights(count, resamples=40, seed=3)]
    ).astype(int)
    for one, column, levels in zip(found, (values, np.abs(values)), LEVELS, strict=True):
        assert one.n == n
        for row, times in zip(one.rows, weights, strict=True):
            written = np.repeat(column.astype(np.float64), times[inverse])
            np.testing.assert_array_equal(row, np.quantile(written, levels))


def test_equal_values_of_a_document_are_kept_as_one(monkeypatch):
    pile = resampled._Pile(limit=10)
    for part in range(9):
        pile.add(np.array([0.0, 1.0, 0.0, 0.5]), np.array([part // 3, 0, part // 3, 1]))
    pile.sort()
    [(values, owners, times)] = pile.pieces
    assert values.tolist() == [0, 0, 0, 0.5, 1]
    assert owners.tolist() == [0, 1, 2, 1, 0]
    assert times.tolist() == [6, 6, 6, 9, 9]


def test_no_value_and_one_document_have_no_interval():
    read = in_parts((np.zeros(0),), np.zeros(0, dtype=np.intp), [0])
    [nothing] = read_quantiles(read, [(0.5,)], 0)
    assert np.isnan(nothing.rows).all()
    assert nothing.estimates()[0].value is None
    read = in_parts((np.arange(5.0),), np.zeros(5, dtype=np.intp), [2, 3])
    [one] = read_quantiles(read, [(0.5,)], 1)
    assert one.rows.tolist() == [[2.0]]
    assert one.estimates()[0].low is None


def test_thousands_of_resamples_keep_few_of_the_values(monkeypatch):
    """Some of them lie past four standard errors: that keeps no broad block of values."""
    kept = 0
    add = resampled._Pile.add

    def counted(self, values, owners):
        nonlocal kept
        kept += len(values)
        add(self, values, owners)

    monkeypatch.setattr(resampled._Pile, "add", counted)
    generator = np.random.default_rng(1)
    n, documents = 200_000, 100
    values, inverse = generator.normal(size=n), np.arange(n) % documents
    read_quantiles(in_parts((values,), inverse, [n]), [(0.05, 0.5, 0.95)], documents)
    assert kept < n / 20
