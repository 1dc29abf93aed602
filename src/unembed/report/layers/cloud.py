"""The shape of the cloud of states at each depth, beside its controls, as a section of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from unembed.decisions.cloud.cloud import HEAD_INPUT, LIPSCHITZ, Cloud, CloudRow, Geometry
from unembed.decisions.cloud.spectrum import Spectrum
from unembed.report.layers.by_depth import Curve, OverDepths, depth_figure, named
from unembed.report.parts.drawing import Spec, draw, heading
from unembed.report.parts.marks import (
    KEPT_APART,
    Channels,
    interval_fields,
    intervals,
    line,
    points,
    quantity,
    scaled,
)
from unembed.report.parts.parts import Figure, Key, Section, Table, table_of
from unembed.report.parts.scales import scale_of
from unembed.report.parts.wording import Wording, cell, count, decimal, full, point, share, size
from unembed.stats.estimate import Estimate

SEQUENTIAL_STEPS = 9
MOST_SCALE_CURVES = 7
"""Depths whose scale curves are drawn."""

OF_TEXT, OF_GAUSSIAN, OF_SHUFFLED = "text", "Gaussian of like covariance", "shuffled text"

OfGeometry = Callable[[Geometry], Estimate]
OfSpectrum = Callable[[Spectrum], Estimate]


def cloud_section(cloud: Cloud, blocks: int) -> Section:
    """Spectrum first, then dimensions and curvature with both controls."""
    lead = (
        f"The states of {size(cloud.points, cloud.documents)}, the same at every depth. The "
        "spectrum of their covariance comes first: how many directions their variance spreads "
        f"over. {LIPSCHITZ}"
    )
    fewest = min(cloud.rows, key=lambda row: row.geometry.points)
    if fewest.geometry.points < cloud.points:
        lead += (
            " States that equal an earlier one, or nearly so, are left out of dimensions and "
            f"curvature: {count(fewest.geometry.points)} differ at depth {named(fewest.depth)}."
        )
    return Section(
        "cloud",
        "The shape of the cloud",
        lead,
        (
            _spectrum(cloud, blocks, ("effective-rank", "Effective rank"), _rank, "directions"),
            _spectrum(
                cloud,
                blocks,
                ("participation", "Participation ratio"),
                lambda one: one.participation_ratio,
                "directions",
            ),
            _geometry(
                cloud,
                blocks,
                ("two-nn", "Dimension by TwoNN", "dimension"),
                lambda one: one.dimensions.two_nn,
            ),
            _geometry(
                cloud,
                blocks,
                ("levina-bickel", "Dimension by Levina and Bickel", "dimension"),
                lambda one: one.dimensions.levina_bickel,
            ),
            _scales(cloud),
            _geometry(
                cloud,
                blocks,
                ("off-plane", "Variance off the tangent plane", "share of the variance"),
                lambda one: one.curvature.off_plane,
                share,
            ),
            _geometry(
                cloud,
                blocks,
                ("turning", "Turning of the tangent plane", "radians per radius of the cloud"),
                lambda one: one.curvature.turning,
            ),
        ),
        folded=(_spectra(cloud), *_geometries(cloud)),
        more="Every depth in numbers",
    )


def _rank(one: Spectrum) -> Estimate:
    return one.effective_rank


def _spectrum(
    cloud: Cloud, blocks: int, names: tuple[str, str], figure: OfSpectrum, unit: str
) -> Figure:
    shuffled = {
        row.depth: figure(row.shuffled_spectrum)
        for row in cloud.rows
        if row.shuffled_spectrum is not None
    }
    curves = [Curve(OF_TEXT, {row.depth: figure(row.spectrum) for row in cloud.rows})]
    if shuffled:
        curves.append(Curve(OF_SHUFFLED, shuffled))
    words = {
        "effective-rank": "The exponential of the entropy of the covariance’s eigenvalues.",
        "participation": "1 / Σp² of the covariance’s eigenvalues p: the large ones count most.",
    }
    caption = f"{words[names[0]]} Bands are 95 % intervals over documents."
    return depth_figure(
        OverDepths(*names, caption, unit, decimal, tuple(curves), blocks, zero=True)
    )


def _geometry(
    cloud: Cloud,
    blocks: int,
    names: tuple[str, str, str],
    figure: OfGeometry,
    form: Wording = decimal,
) -> Figure:
    curves = [
        Curve(OF_TEXT, {row.depth: figure(row.geometry) for row in cloud.rows}),
        Curve(OF_GAUSSIAN, {row.depth: figure(row.gaussian) for row in cloud.rows}, made_up=True),
    ]
    shuffled = {row.depth: figure(row.shuffled) for row in cloud.rows if row.shuffled is not None}
    if shuffled:
        curves.append(Curve(OF_SHUFFLED, shuffled))
    name, title, unit = names
    return depth_figure(
        OverDepths(name, title, CAPTIONS[name], unit, form, tuple(curves), blocks, zero=True)
    )


CAPTIONS = {
    "two-nn": (
        "From how much farther the second neighbour is than the first. A Gaussian of the same "
        "covariance has no structure but its spectrum: where both curves agree, so may the cloud. "
        "Bands are 95 % intervals over documents."
    ),
    "levina-bickel": (
        "From the distances to the 5th to 12th neighbour, a coarser scale than TwoNN’s. Bands are "
        "95 % intervals over documents."
    ),
    "off-plane": (
        "How much of the variance of sixteen neighbours lies off the plane that fits them best. "
        "Sixteen points scatter: read it beside the Gaussian, which does not bend."
    ),
    "turning": (
        "The angle between the planes of neighbours over their distance, in radii of the cloud. "
        "Read it beside the Gaussian, which does not bend."
    ),
}


def _scales(cloud: Cloud) -> Figure:
    rows = [row for row in cloud.rows if row.depth != HEAD_INPUT]
    last = len(rows) - 1
    many = min(MOST_SCALE_CURVES, len(rows))
    some = [rows[round(i * last / max(1, many - 1))] for i in range(many)]
    return Figure(
        "scales",
        "Dimension by scale",
        "Gride’s estimate from the k-th and 2k-th neighbour, for some of the depths. A manifold "
        "has a plateau: over a range of k the dimension stays. Lines are 95 % intervals over "
        "documents.",
        draw(_scale_chart(some), "Dimension by number of neighbours, a curve a depth"),
        (Key("ramp", f"depth {some[0].depth} to {some[-1].depth}"),),
        (_scale_table(cloud),),
    )


def _scale_chart(rows: list[CloudRow]) -> Spec:
    found: list[list[Spec]] = []
    for i, row in enumerate(rows):
        step = round(2 + (SEQUENTIAL_STEPS - 2) * i / max(1, len(rows) - 1))
        colour = f"var(--seq-{step})"
        found.append(
            [
                {
                    "x": one.neighbours,
                    "tip": f"depth {row.depth}, neighbours {one.neighbours} and "
                    f"{2 * one.neighbours}\n{full(one.dimension, decimal)}",
                    "fill": colour,
                    "stroke": colour,
                }
                | interval_fields(one.dimension, "y")
                for one in row.geometry.dimensions.gride
                if one.dimension.value is not None
            ]
        )
    every = [row for curve in found for row in curve]
    ticks = sorted({row["x"] for row in every}) or [1]
    axis = {"title": "neighbour k, of k and 2k", "grid": False, "values": ticks, "format": "d"}
    high = ticks[-1] if len(ticks) > 1 else 2
    x = quantity(axis | KEPT_APART, type="log", domain=[ticks[0], high], nice=False, padding=8)
    ends = [row[end] for row in every for end in ("y_low", "y_high")]
    channels: Channels = {"x": x, "y": scaled(scale_of([0.0, *ends], ticks=5), None, grid=True)}
    layers: list[Spec] = []
    for curve in found:
        layers.append(intervals(curve, channels, "y", width=1.4))
        look = {"color": curve[0]["stroke"]} if curve else {}
        layers.append(line(curve, channels, look))
    layers.append(points(every, channels, size=40))
    return {"title": heading("dimension"), "layer": layers}


def _scale_table(cloud: Cloud) -> Table:
    scales = [one.neighbours for one in cloud.rows[0].geometry.dimensions.gride]

    def at(number: int) -> Callable[[CloudRow], str]:
        return lambda row: cell(row.geometry.dimensions.gride[number].dimension, decimal)

    return table_of(
        "Gride’s dimension from the k-th and 2k-th neighbour, with 95 % intervals",
        cloud.rows,
        {"depth": lambda row: named(row.depth)}
        | {f"k = {k}": at(number) for number, k in enumerate(scales)},
    )


def _spectra(cloud: Cloud) -> Table:
    def of(name: str, form: Wording = decimal) -> Callable[[CloudRow], str]:
        return lambda row: cell(getattr(row.spectrum, name), form)

    return table_of(
        "Spectrum and place of the cloud, with 95 % intervals",
        cloud.rows,
        {
            "depth": lambda row: named(row.depth),
            "entropy, nats": of("entropy_nats"),
            "effective rank": of("effective_rank"),
            "participation ratio": of("participation_ratio"),
            "leading direction": of("leading_share", share),
            "mean cosine": of("mean_cosine"),
            "mean norm": of("mean_norm"),
            "share of the mean": of("mean_share", share),
        },
    )


def _geometries(cloud: Cloud) -> list[Table]:
    found: Mapping[str, Callable[[CloudRow], Geometry | None]] = {
        OF_TEXT: lambda row: row.geometry,
        OF_GAUSSIAN: lambda row: row.gaussian,
        OF_SHUFFLED: lambda row: row.shuffled,
    }
    tables = []
    for name, geometry in found.items():
        rows = [(row.depth, one) for row in cloud.rows if (one := geometry(row)) is not None]
        if rows:
            words = point if name == OF_GAUSSIAN else cell
            tables.append(_geometry_table(f"Dimensions and curvature, {name}", rows, words))
    return tables


def _geometry_table(
    caption: str,
    rows: Sequence[tuple[int, Geometry]],
    words: Callable[[Estimate, Wording], str],
) -> Table:
    return table_of(
        caption,
        rows,
        {
            "depth": lambda one: named(one[0]),
            "points": lambda one: count(one[1].points),
            "copies": lambda one: count(one[1].copies + one[1].underflows),
            "TwoNN": lambda one: words(one[1].dimensions.two_nn, decimal),
            "TwoNN, likelihood": lambda one: words(one[1].dimensions.two_nn_ml, decimal),
            "Levina–Bickel": lambda one: words(one[1].dimensions.levina_bickel, decimal),
            "tangent": lambda one: str(one[1].curvature.tangent),
            "off the plane": lambda one: words(one[1].curvature.off_plane, share),
            "turning": lambda one: words(one[1].curvature.turning, decimal),
        },
    )
