from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unembed.runs.arrays import number_array, numbers_of, read_table, text_array

DTYPES = (np.int8, np.int32, np.int64, np.float16, np.float32, np.float64, np.bool_)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000])
def test_numbers_are_those_that_pyarrow_makes(dtype: type, size: int) -> None:
    rng = np.random.default_rng(size)
    values = rng.integers(-3, 3, 2 * size).astype(dtype)[::2]
    missing = rng.random(size) < 0.3
    for holes in (None, missing, np.zeros(size, dtype=bool)):
        made = number_array(values, holes)
        made.validate(full=True)
        assert made.equals(pa.array(values, mask=holes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_numbers_are_read_as_pyarrow_does(dtype: type, pieces: int) -> None:
    rng = np.random.default_rng(pieces)
    for holes in (0.0, 0.3):
        for size in (0, 1, 9, 100):
            made = [
                pa.array(rng.integers(0, 3, size).astype(dtype), mask=rng.random(size) < holes)
                for _ in range(pieces)
            ]
            whole = pa.chunked_array(made)
            for column in (whole, whole.slice(3), whole.slice(1, 11)):
                expected = column.to_numpy()
                found = numbers_of(column)
                if dtype == np.bool_ and column.null_count:
                    expected = np.array([np.nan if one is None else one for one in expected], float)
                np.testing.assert_array_equal(found, expected)
                if not column.null_count:
                    assert found.dtype == np.dtype(dtype)


def test_texts_are_those_that_pyarrow_makes() -> None:
    texts = ["", "a", "ünïcode", "𝄞 and more", "", "line\n"]
    for some in (texts, [], [""]):
        made = text_array(some)
        made.validate(full=True)
        assert made.equals(pa.array(some, pa.string()))


def test_a_table_is_read_as_pyarrow_does(tmp_path: Path) -> None:
    pairs = pa.FixedSizeListArray.from_arrays(pa.array(range(6)), 2)
    table = pa.table({"doc": [1, 2, 3], "name": ["x", None, "z"], "pairs": pairs})
    file = tmp_path / "table.parquet"
    pq.write_table(table, file)
    assert read_table(file).equals(pq.read_table(file))
    for columns in (["pairs", "doc"], ["name"]):
        assert read_table(file, columns).equals(pq.read_table(file, columns=columns))
    with pytest.raises(KeyError, match="absent"):
        read_table(file, ["absent"])
