"""What a change did to a model's decisions: compare(before, after) -> Comparison."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from unembed.cells.audit import Audit
from unembed.cells.comparison import (
    BAND_NAMES,
    ComparisonSummary,
    Groups,
    bands_of,
    comparison_from_json,
    comparison_to_json,
    summarise_pair,
)
from unembed.cells.divergences import DivergenceColumns
from unembed.cells.flips import RESAMPLES
from unembed.cells.headline import as_html, as_text, shown
from unembed.cells.pairing import Pair, pair
from unembed.cells.tokens import (
    CLASSES,
    FREQUENCY_NAMES,
    classes_of,
    encodings_of,
    frequency_buckets,
    marks_of_terms,
)
from unembed.errors import UnembedError
from unembed.provenance import SCHEMA
from unembed.store import RunFolder, verified_manifest
from unembed.vocabulary import Vocabulary

PART_ROWS = 1 << 18


@dataclass(frozen=True)
class Only:
    """Which positions to compare; what is left empty keeps all.

    ``classes`` and ``frequencies`` are of the target, ``bands`` of the margin before.
    ``documents`` is a regular expression that a document's name must contain. ``terms`` are words
    of the user's: a position is kept where its target is part of one, spelled by ``tokenizer``.
    """

    classes: tuple[str, ...] = ()
    frequencies: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    documents: str | None = None
    terms: tuple[str, ...] = ()
    tokenizer: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        known = {"classes": CLASSES, "frequencies": FREQUENCY_NAMES, "bands": BAND_NAMES}
        for name, choices in known.items():
            for value in getattr(self, name):
                if value not in choices:
                    raise UnembedError(f"{value!r} is none of the {name} {', '.join(choices)}")
        if self.documents is not None:
            try:
                re.compile(self.documents)
            except re.error as error:
                raise UnembedError(
                    f"{self.documents!r} is no regular expression: {error}"
                ) from None
        if self.terms and self.tokenizer is None:
            raise UnembedError(
                f"terms ({', '.join(map(repr, self.terms))}) need the tokenizer that spells them"
            )

    @property
    def words(self) -> str | None:
        """The filter in words, None where everything is kept."""
        said = [f"{name} {', '.join(kept)}" for name, kept in self._lists() if kept]
        if self.documents is not None:
            said.append(f"documents matching {self.documents!r}")
        return "; ".join(said) or None

    def chosen(
        self, paired: Pair, groups: Groups, names: Sequence[str]
    ) -> Bool[np.ndarray, " positions"]:
        """The positions kept. Raises UnembedError where there is none."""
        kept = np.ones(len(paired.doc), dtype=bool)
        for wanted, choices, group in (
            (self.classes, CLASSES, groups.token_class),
            (self.frequencies, FREQUENCY_NAMES, groups.frequency),
            (self.bands, BAND_NAMES, groups.band_before),
        ):
            if wanted:
                kept &= np.isin(group, [choices.index(name) for name in wanted])
        if self.documents is not None:
            matching = [re.search(self.documents, name) is not None for name in names]
            kept &= np.array(matching)[paired.doc]
        if self.terms:
            spelled = encodings_of(self.terms, self.tokenizer)
            kept &= marks_of_terms(paired.doc, paired.pos, paired.target, spelled)
        if not kept.any():
            raise UnembedError(f"no position is left with {self.words}: keep more")
        return kept

    def _lists(self) -> list[tuple[str, tuple[str, ...]]]:
        return [
            ("classes", self.classes),
            ("frequencies", self.frequencies),
            ("bands", self.bands),
            # Quoted, for a term may hold a comma.
            ("terms", tuple(map(repr, self.terms))),
        ]


@dataclass(frozen=True)
class Comparison:
    """Two audits of one text, position by position, with every figure of SPEC §4.

    ``table`` has a row per position: ``doc pos target``, then ``before_`` and ``after_`` columns;
    works wherever an Arrow table does. ``provenance`` holds both audits'.
    """

    summary: ComparisonSummary
    provenance: dict[str, Any] = field(repr=False)
    vocabulary: Vocabulary = field(repr=False)
    documents: pa.Table = field(repr=False)
    folder: Path | None = None
    in_memory: pa.Table | None = field(default=None, repr=False)

    @staticmethod
    def load(folder: str | Path) -> Comparison:
        """Open a finished comparison, with every file checked against its recorded SHA-256."""
        values = verified_manifest(folder).provenance
        if (values.get("kind"), values.get("schema")) != ("comparison", SCHEMA):
            raise UnembedError(
                f"{folder} holds a run of kind {values.get('kind')!r}, schema "
                f"{values.get('schema')!r}, where a comparison of schema {SCHEMA} is needed: "
                "repeat it with unembed compare in a new folder"
            )
        folder = Path(folder)
        summary = json.loads((folder / "summary.json").read_text())
        return Comparison(
            comparison_from_json(summary),
            values,
            Vocabulary.from_table(pq.read_table(folder / "vocabulary.parquet")),
            pq.read_table(folder / "documents.parquet"),
            folder,
        )

    @cached_property
    def table(self) -> pa.Table:
        """All positions."""
        if self.in_memory is not None:
            return self.in_memory
        assert self.folder is not None
        files = sorted((self.folder / "tokens").glob("part-*.parquet"))
        return pa.concat_tables([pq.read_table(file) for file in files])

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame."""
        return self.table.to_pandas()

    def __len__(self) -> int:
        return self.summary.n_positions

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __str__(self) -> str:
        return as_text(headline(self.summary))

    def _repr_html_(self) -> str:
        return as_html(headline(self.summary))


def compare(
    before: Audit,
    after: Audit,
    *,
    divergence: pa.Table | None = None,
    only: Only | None = None,
    out: str | Path | None = None,
    command: str = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Which decisions changed between two audits of one text, and were they right.

    Rows pair on (document, position). Churn, flips and their tests, runner-up rotation, margin
    bands, frequency, token class, calibration, and the flips that the margins before predict; each
    margin figure raw and scale-free, each figure with an interval over documents.
    ``compare(a, a)`` is zero throughout. ``divergence`` is ``live.audit_both``'s table. With
    ``out`` the run is written there.
    Raises UnembedError where the audits are not of one text, tokenizer and windows, or where
    ``only`` leaves nothing. Source: SPEC §4.
    """
    only = only or Only()
    paired = pair(before, after)
    groups = _groups(paired)
    if only.words is not None:
        kept = only.chosen(paired, groups, before.documents["name"].to_pylist())
        paired = paired.rows(kept)
        groups = Groups(**{name: column[kept] for name, column in vars(groups).items()})
    apart = None if divergence is None else _divergence(divergence, paired)
    provenance = {
        "kind": "comparison",
        "schema": SCHEMA,
        "before": before.provenance.to_json(),
        "after": after.provenance.to_json(),
        "only": only.words,
        "divergence": divergence is not None,
        "resamples": resamples,
        "seed": seed,
    }

    def summarised() -> ComparisonSummary:
        return summarise_pair(
            paired,
            groups,
            only=only.words,
            topk_logits=_topk_logits(before, paired),
            divergence=apart,
            resamples=resamples,
            seed=seed,
        )

    named = (paired.vocabulary, before.documents)
    if out is None:
        table = _table(paired, groups, apart)
        return Comparison(summarised(), provenance, *named, in_memory=table)
    with RunFolder.open(out, provenance) as folder:
        if folder.finished:
            return Comparison.load(folder.folder)
        summary, table = summarised(), _table(paired, groups, apart)
        for number, start in enumerate(range(0, table.num_rows, PART_ROWS)):
            path = f"tokens/part-{number:05d}.parquet"
            if path not in folder.done:
                folder.write_table(path, table.slice(start, PART_ROWS))
        folder.write_table("vocabulary.parquet", paired.vocabulary.to_table())
        folder.write_table("documents.parquet", before.documents)
        text = json.dumps(comparison_to_json(summary), indent=1, allow_nan=False)
        folder.write_bytes("summary.json", text.encode())
        folder.finish(provenance, command)
        return Comparison(summary, provenance, *named, folder.folder)


def headline(summary: ComparisonSummary) -> list[tuple[str, str]]:
    """The short table that a comparison prints: name and value with its interval."""
    flips, movement, calibration = summary.flips, summary.movement, summary.calibration
    rows = [
        ("positions", f"{summary.n_positions:,} in {summary.n_documents:,} documents"),
        ("changed top token (churn)", shown(flips.churn, ".2%")),
        ("wrong to right", f"{flips.wrong_to_right:,}"),
        ("right to wrong", f"{flips.right_to_wrong:,}"),
        ("flip ratio", shown(flips.flip_ratio, ".2f")),
        ("accuracy before", shown(flips.accuracy_before, ".2%")),
        ("accuracy difference", shown(flips.accuracy_difference, "+.2%")),
        ("McNemar p, by document", shown(flips.clustered_mcnemar_p, ".2g")),
        ("loss difference (nats)", shown(calibration.nll_difference_nats, "+.4f")),
        ("wider margin", shown(movement.everywhere.margin.wider, ".1%")),
        ("median change of margin", shown(movement.everywhere.margin.median, "+.3f")),
        (
            "median change, scale-free",
            shown(movement.everywhere.relative_distance.median, "+.5f"),
        ),
        ("margins", f"{movement.sharpening.verdict}"),
        ("runner-up rotation", shown(movement.rotation.share, ".2%")),
        ("churn that margins predict", shown(summary.prediction.predicted, ".2%")),
    ]
    if summary.divergence is not None:
        apart = summary.divergence
        rows += [
            ("KL(before‖after) (nats)", shown(apart.kl_forward.mean, ".5f")),
            ("KL(after‖before) (nats)", shown(apart.kl_backward.mean, ".5f")),
            ("total variation", shown(apart.total_variation.mean, ".4f")),
            ("speculative acceptance", shown(apart.acceptance, ".2%")),
            ("top-k overlap", shown(apart.overlap, ".2%")),
        ]
    if summary.only is not None:
        rows.insert(1, ("only", summary.only))
    if summary.n_nonfinite:
        rows.append(("not finite", f"{summary.n_nonfinite:,} positions left out"))
    rows += [("note", note) for note in summary.notes]
    return rows


def _groups(paired: Pair) -> Groups:
    tokens, where = np.unique(paired.target, return_inverse=True)
    classes = classes_of([paired.vocabulary[token] for token in tokens.tolist()])
    return Groups(
        bands_of(paired.before.margin),
        bands_of(paired.after.margin),
        frequency_buckets(paired.target).astype(np.int64),
        classes[where].astype(np.int64),
        paired.word_start.astype(np.int64),
    )


def _topk_logits(before: Audit, paired: Pair) -> Any:
    """The candidates' logits before, at the paired positions; None where none were kept."""
    k = before.provenance.options["top_k"]
    if k < 2:
        return None
    column = before.read(["topk_logits"])["topk_logits"].combine_chunks()
    logits = column.fill_null([0.0] * k) if column.null_count else column
    return logits.flatten().to_numpy().reshape(-1, k)[paired.row]


def _divergence(table: pa.Table, paired: Pair) -> DivergenceColumns:
    """The divergences at the paired positions, which are finite there."""
    names = [field.name for field in fields(DivergenceColumns)]
    return DivergenceColumns(**{name: table[name].to_numpy()[paired.row] for name in names})


def _table(paired: Pair, groups: Groups, apart: DivergenceColumns | None) -> pa.Table:
    columns: dict[str, Any] = {"doc": paired.doc, "pos": paired.pos, "target": paired.target}
    for name, side in (("before", paired.before), ("after", paired.after)):
        columns |= {f"{name}_{key}": column for key, column in vars(side).items()}
        columns[f"{name}_right"] = side.top1 == paired.target
    columns |= {} if apart is None else vars(apart)
    columns["word_start"] = paired.word_start
    for name, labels, group in (
        ("class", CLASSES, groups.token_class),
        ("frequency", FREQUENCY_NAMES, groups.frequency),
    ):
        # Plain text: every part of a folder would bring a dictionary of its own.
        columns[name] = pa.array(labels, pa.string()).take(pa.array(group))
    return pa.table(columns)
