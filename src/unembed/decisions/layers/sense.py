"""Whether the tables of a stored run of layers hold what one can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unembed.decisions.audit.sense import ROUNDING, checked_part
from unembed.decisions.layers.fitted import FittedLens
from unembed.decisions.layers.run import Place, folder_of
from unembed.decisions.layers.summary import LayersSummary
from unembed.runs.manifest import FinishedRun
from unembed.runs.provenance import Provenance

AT_LEAST_0 = (
    "margin",
    "relative_distance",
    "hidden_norm",
    "nll",
    "entropy",
    "kl_final",
    "cosine_penalty",
    "fisher_penalty",
)


def check_layers(
    run: FinishedRun,
    provenance: Provenance,
    places: Sequence[Place],
    fitted: FittedLens | None,
    summary: LayersSummary,
) -> None:
    """Raise ValueError where a run lacks a table, rows or columns, or holds what no run gives.

    Every depth of a lens has the same positions, as many as the manifest and the provenance say;
    ids lie in the vocabulary, documents among those of the text; margins, losses, entropies,
    divergences and penalties are not negative, ranks begin at 1 and acceptances lie in [0, 1].
    """
    text, vocab = provenance.text, provenance.head_shape[0]
    if summary.n_positions != text.positions or summary.depths != tuple(
        provenance.options["depths"]
    ):
        raise ValueError(
            f"its summary counts {summary.n_positions:,} positions at depths {summary.depths}, its "
            f"provenance {text.positions:,} at {provenance.options['depths']}"
        )
    if (None if summary.fit is None else summary.fit.digest) != (
        None if fitted is None else fitted.digest
    ):
        raise ValueError("its fitted lens is not the one that its summary names")
    names = pq.read_metadata(run.folder / "documents.parquet").num_rows
    if names != text.documents:
        raise ValueError(f"it names {names:,} documents of {text.documents:,}")
    ids = (0.0, vocab - 1.0)
    ranks = (1.0, float(vocab))
    whole = {
        **{"doc": (0.0, names - 1.0), "pos": (0.0, math.inf), "target": ids},
        **{"top1": ids, "top2": ids, "rank": ranks, "final_rank": ranks},
    }
    real = dict.fromkeys(AT_LEAST_0, (-ROUNDING, math.inf))
    real["acceptance"] = (-ROUNDING, 1 + ROUNDING)
    positions: dict[str, pa.Table] = {}
    for lens, depth in places:
        above = f"{folder_of(lens, depth)}/"
        parts = [part for part in run.parts if part.path.startswith(above)]
        tables = []
        for part in parts:
            table = checked_part(run, part, whole, real)
            left_out = pc.is_null(table["top1"])
            keys = table.select(["doc", "pos", "target"]).append_column("left_out", left_out)
            tables.append(keys)
        found = pa.concat_tables(tables) if tables else None
        if found is None or not positions.setdefault(lens, found).equals(found):
            raise ValueError(f"depth {depth} under the {lens} lens lacks positions")
    listed = positions["normed"].num_rows
    if listed != text.positions:
        raise ValueError(f"its tables list {listed:,} positions of {text.positions:,}")
