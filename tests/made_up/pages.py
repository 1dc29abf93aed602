"""The page of each kind of run, drawn from made-up records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from made_up.alignments import example
from made_up.audits import make_documents, make_summary
from made_up.comparisons import WORDS, make_live_comparison
from made_up.doses import Grid
from made_up.ladders import make_ladder
from made_up.layers import make_layers, make_layers_comparison
from made_up.logs import compared_benchmarks
from made_up.network_signatures import network_alignments
from made_up.refinements import make_summary as make_refinement
from made_up.selection import METHODS, mixture, plane, ranking, transfer, verdicts
from made_up.slices import made_slices
from unembed.decisions.comparison.excerpt import flip_excerpts
from unembed.report.alignment.page import alignment_page
from unembed.report.audit.page import audit_page
from unembed.report.benchmarks.page import benchmarks_page
from unembed.report.comparison.flip_quotes import flips_of
from unembed.report.comparison.page import comparison_page
from unembed.report.depths.page import depths_page
from unembed.report.dose.page import dose_page
from unembed.report.gallery.page import Entry, gallery_page, heading_of
from unembed.report.index.page import index_page
from unembed.report.ladder.page import ladder_page
from unembed.report.layers.page import page_of_run as layers_page_of_run
from unembed.report.mixture.page import mixture_page
from unembed.report.network.page import network_page
from unembed.report.parts.kin import Kin
from unembed.report.ranking.page import ranking_page
from unembed.report.refinement.page import refinement_page
from unembed.report.transfer.page import transfer_page
from unembed.training.doses.table import dose_table
from unembed.training.recipe.recipe import Recipe

FACTS = [("Model", "example/base"), ("Command", "unembed audit example/base text -o run")]


def _audit() -> str:
    first, *documents = make_documents()
    tokens = list(first.tokens)
    for picture, at in enumerate((5, 9)):
        tokens[at] = replace(tokens[at], picture=picture)
    documents = [replace(first, tokens=tuple(tokens)), *documents]
    slices = made_slices([(0, 5), (0, 9), (1, 2)])
    title = "Token decisions of base"
    return audit_page(title, make_summary(), FACTS, documents, ["Note."], slices)


def _comparison() -> str:
    comparison = make_live_comparison()
    names = [f"document {at}" for at in range(12)]
    documents = flip_excerpts(comparison, WORDS, names, [15, 5, *range(10)])
    return comparison_page(
        "From base to tuned", comparison.summary, FACTS, documents, flips=flips_of(comparison)
    )


def _refinement() -> str:
    links = {one: f"{one}/report.html" for one in ("heldout", "training")}
    return refinement_page("base, refined", make_refinement(), Recipe().to_json(), FACTS, links)


def _dose() -> str:
    heldout, training = Grid(), Grid(n=300, documents=5)
    tables = (dose_table(one.start, one.points(), resamples=60) for one in (heldout, training))
    return dose_page("A grid", *tables, FACTS, ["margin-2-seed1 could not be trained"])


def _gallery() -> str:
    kinds = [kind for kind in PAGES if kind not in ("index", "gallery")]
    return gallery_page(
        "Runs",
        [
            Entry(kind, *heading_of(page_of(kind)), f"{kind}/report.html", (Kin("heldout", "a"),))
            for kind in kinds
        ],
    )


PAGES: dict[str, Callable[[], str]] = {
    "audit": _audit,
    "layers": lambda: layers_page_of_run(make_layers(), None, {}),
    "comparison": _comparison,
    "depths": lambda: depths_page(make_layers_comparison(), title="Depths", facts=FACTS),
    "benchmarks": lambda: benchmarks_page(compared_benchmarks(), title="Benchmarks", facts=FACTS),
    "ladder": lambda: ladder_page(make_ladder(2).summary, title="Variants", facts=FACTS),
    "refinement": _refinement,
    "dose": _dose,
    "alignment": lambda: alignment_page(
        example(12, missing=(4,)), title="Who is like whom", facts=FACTS
    ),
    "network": lambda: network_page(network_alignments(4), title="Where", facts=FACTS),
    "ranking": lambda: ranking_page(ranking(12, missing=2), title="Which text", facts=FACTS),
    "mixture": lambda: mixture_page(mixture(6), title="What it is made of", facts=FACTS),
    "transfer": lambda: transfer_page(
        transfer(16), verdicts(METHODS), title="Who helps whom", facts=FACTS
    ),
    "index": lambda: index_page(plane(300, tags=6), title="A map of texts", facts=FACTS),
    "gallery": _gallery,
}


@cache
def page_of(kind: str) -> str:
    """The page of this kind."""
    return PAGES[kind]()
