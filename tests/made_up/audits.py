"""Made-up audits: a summary whose numbers are drawn, and documents with text a page must escape."""

from __future__ import annotations

import itertools

import numpy as np

from unembed.decisions.audit.excerpt import DocumentView, TokenView
from unembed.decisions.audit.gap import GapFit, LineFit
from unembed.decisions.audit.summary import (
    MARGIN_BANDS,
    AuditSummary,
    Band,
    Bfloat16Rounding,
    Density,
    Histogram,
    NativeHead,
)
from unembed.stats.estimate import Estimate

NASTY = (
    "<script>alert(1)</script>",
    "</script>",
    "<!--",
    "-->",
    "&amp;",
    "<img src=x onerror=alert(1)>",
    "\u202eabc",
    "\u2066x\u2069",
    "\u200e\u200f",
    "zero\u200bwidth",
    "\u0301\u0302",
    "a" + "\u0300" * 40,
    "\x00\x1b[31m",
    "\ud800",
    "\ufffd",
    "\u2028\u2029",
    "{{ 7 * 7 }}",
    "${x}",
    "__proto__",
    "\n",
    "\r\n",
    "\t",
    "    ",
    '"\\',
)
PLAIN = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "model",
    "head",
    "decision",
    "narrow",
    "wide",
    "a",
    "is",
    "margin",
]


def estimate(value: float, spread: float, n: int) -> Estimate:
    return Estimate(value, value - spread, value + spread, n)


def gap_fit(margins: np.ndarray, window: tuple[float, float], fixed: bool = True) -> GapFit:
    epsilon = np.geomspace(*window, 32)
    eta = np.array([(margins < e).mean() for e in epsilon])
    keep = eta > 0
    beta, intercept = np.polyfit(np.log10(epsilon[keep]), np.log10(eta[keep]), 1)
    fit = LineFit(
        epsilon_min=window[0],
        epsilon_max=window[1],
        points=int(keep.sum()),
        beta=estimate(float(beta), 0.02, len(margins)),
        intercept=estimate(float(intercept), 0.02, len(margins)),
        r_squared=0.9991,
        alpha=estimate(0.61, 0.03, len(margins)),
    )
    wide = np.geomspace(window[0], 3.0, 24)
    share = np.array([(margins < e).mean() for e in wide])
    slope = np.gradient(np.log(np.maximum(share, 1e-9)), np.log(wide))
    other = LineFit(0.1, 1.0, 32, fit.beta, fit.intercept, 0.998, fit.alpha)
    error = 2 * np.sqrt(eta * (1 - eta) / 2000)
    return GapFit(
        n=len(margins),
        epsilon=tuple(epsilon.tolist()),
        eta=tuple(eta.tolist()),
        eta_low=tuple(np.maximum(eta - error, 0).tolist()),
        eta_high=tuple((eta + error).tolist()),
        published=fit,
        fixed=other if fixed else None,
        slope_epsilon=tuple(wide.tolist()),
        local_slope=tuple(slope.tolist()),
        density_at_zero=estimate(0.62, 0.05, len(margins)),
    )


def histogram(values: np.ndarray, right: np.ndarray, edges: np.ndarray) -> Histogram:
    return Histogram(
        edges=tuple(edges.tolist()),
        right=tuple(np.histogram(values[right], edges)[0].tolist()),
        wrong=tuple(np.histogram(values[~right], edges)[0].tolist()),
        below=0,
        above=int((values > edges[-1]).sum()),
    )


def make_summary(n: int = 98_304, native: bool = True, gap: bool = True) -> AuditSummary:
    rng = np.random.default_rng(7)
    margin = rng.gamma(0.85, 2.4, n)
    confidence = 1 / (1 + 2.2 * np.exp(-margin))
    right = rng.random(n) < confidence * 0.97
    entropy = np.clip(4.8 * np.exp(-margin / 2.6) + rng.normal(0, 0.55, n), 0.01, 9.5)
    relative = margin / rng.normal(110, 9, n)
    bands = []
    for low, high in itertools.pairwise(MARGIN_BANDS):
        inside = (margin >= low) & (margin < high)
        m = int(inside.sum())
        bands.append(
            Band(
                low,
                None if np.isinf(high) else high,
                m,
                estimate(m / n, 0.004, n),
                estimate(float(right[inside].mean()), 0.012, m),
                estimate(float(confidence[inside].mean()), 0.006, m),
            )
        )
    x_edges, y_edges = np.linspace(0, 8, 41), np.linspace(0, 12, 41)
    counts = np.histogram2d(entropy, margin, (x_edges, y_edges))[0].astype(int)
    quantiles = {str(q): float(np.quantile(margin, q / 100)) for q in (5, 25, 50, 75, 95)}
    coarse = np.round(margin * 8) / 8
    window = (float(np.quantile(margin, 0.01)), float(np.quantile(margin, 0.25)))
    fit = gap_fit(margin, window)
    return AuditSummary(
        n_positions=n,
        n_documents=192,
        n_nonfinite=0,
        accuracy=estimate(float(right.mean()), 0.008, n),
        nll_nats=estimate(2.913, 0.041, n),
        perplexity=estimate(18.41, 0.76, n),
        entropy_nats=estimate(float(entropy.mean()), 0.05, n),
        confidence=estimate(float(confidence.mean()), 0.006, n),
        median_margin=estimate(float(np.median(margin)), 0.03, n),
        median_relative_distance=estimate(float(np.median(relative)), 0.0004, n),
        share_margin_below_half=estimate(float((margin < 0.5).mean()), 0.006, n),
        spearman_margin_entropy=estimate(-0.842, 0.011, n),
        spearman_relative_distance_entropy=estimate(-0.817, 0.012, n),
        margin_quantiles={k: estimate(v, 0.02, n) for k, v in quantiles.items()},
        relative_distance_quantiles={k: estimate(v / 110, 3e-4, n) for k, v in quantiles.items()},
        bands=tuple(bands),
        margin_histogram=histogram(margin, right, np.linspace(0, 12, 49)),
        relative_distance_histogram=histogram(relative, right, np.linspace(0, 0.11, 45)),
        entropy_margin=Density(
            tuple(x_edges.tolist()),
            tuple(y_edges.tolist()),
            tuple(tuple(row) for row in counts.tolist()),
        ),
        gap=fit if gap else None,
        gap_reason=None if gap else "fewer than 100 positive margins",
        row_norm_cv=0.118,
        native=NativeHead(
            dtype="bfloat16",
            distinct_margins=212,
            distinct_margins_float32=97_840,
            changed_top1=estimate(0.0213, 0.002, n),
            changed_top1_untied=estimate(0.0004, 0.0001, n),
            changed_order=estimate(0.031, 0.002, n),
            tied_top2=estimate(0.0388, 0.002, n),
            below_rounding_step=estimate(0.0567, 0.003, n),
            gap=gap_fit(coarse, window, fixed=False),
            gap_float32=fit,
        )
        if native
        else None,
        overconfidence=estimate(float(confidence.mean() - right.mean()), 0.003, n),
        bfloat16=Bfloat16Rounding(
            within_step=estimate(0.0571, 0.003, n),
            tied=estimate(0.0386, 0.002, n),
            changed=estimate(0.0207, 0.002, n),
        ),
    )


def make_token(rng: np.random.Generator, text: str, pool: tuple[str, ...]) -> TokenView:
    logits = np.sort(rng.normal(0, 2.2, 9))[::-1]
    p = np.exp(logits) / np.exp(logits).sum()
    rank = int(rng.choice(9, p=p)) + 1
    others = [str(word) for word in rng.choice(pool, 5)]
    if rank <= 5:
        others[rank - 1] = text
    return TokenView(
        text=text,
        candidates=tuple(zip(others, p[:5].tolist(), strict=True)),
        margin=float(logits[0] - logits[1]),
        relative_distance=float(logits[0] - logits[1]) / 110,
        entropy_nats=float(-(p * np.log(p)).sum()),
        nll_nats=float(-np.log(p[rank - 1])),
        rank=rank,
        right=rank == 1,
    )


def make_document(name: str, texts: list[str], seed: int) -> DocumentView:
    rng = np.random.default_rng(seed)
    pool = tuple(" " + word for word in PLAIN)
    return DocumentView(name, "Once", tuple(make_token(rng, text, pool) for text in texts))


def make_documents() -> list[DocumentView]:
    rng = np.random.default_rng(3)
    prose = [" " + str(word) for word in rng.choice(PLAIN, 320)]
    for i in range(40, 320, 61):
        prose[i : i + 2] = [".", "\n\n"]
    code = [
        "def",
        " narrow",
        "(",
        "margins",
        "):",
        "\n",
        "    ",
        "for",
        " m",
        " in",
        " margins",
        ":",
    ]
    code += ["\n", "\t", "\t", "yield", " m", " <", " 0", ".", "5", "\n"]
    nasty = make_document("nasty </option><b>\u202e", list(NASTY), 5)
    gone = TokenView(" lost", (), None, None, None, None, None, False)
    return [
        make_document("prose", prose, 1),
        make_document("code", code * 4, 2),
        DocumentView(nasty.name, "\u202dlead</bdi>", (*nasty.tokens, gone)),
    ]
