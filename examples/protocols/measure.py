# ruff: noqa: E402  (what it imports lies in folders beside this one)
"""The published protocols of source selection, here, beside the published figures.

    python examples/protocols/measure.py -o protocols --wikitext wikitext2-test.txt
    python examples/protocols/measure.py -o protocols --only shift,strings
    python examples/protocols/measure.py -o stories --only natural --model ./stories260K \
        --articles wikitext2-test.txt wikitext2-valid.txt

Three questions of the paper (arXiv 2606.27242), with its statistics: which of five other choices of
answer words helps most (verbaliser shift); which of 24 other domains of text helps most (natural
shift); and whether a score orders the falls of cross-domain perplexity among nine domains of
strings. Truth is measured by training, scores are had before it; intervals draw tasks or domains,
and every row says in a sentence whether the figure was reproduced. Results are kept in the folder,
so that a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1] / "transfer"), str(Path(__file__).parents[1])]

import run as transfer
import verbaliser_shift
from articles import article_domains
from passages import Domain
from published import (
    NATURAL_SHARE,
    NATURAL_TOP1,
    SHIFT_SHARE,
    SHIFT_STATES,
    SHIFT_TOP1,
    STRINGS_RHO,
    Row,
    choice_rows,
    cross_domain,
    cross_domain_difference,
    spread,
    table,
)
from string_domains import string_domains
from tasks import Sizes

from network import UNITS, NetworkSetup
from unembed import Checkpoint, Estimate, load
from unembed.demo import bundled_model, documents
from unembed.selection import Transfer, compared

PROTOCOLS = ("shift", "natural", "strings")
SHIFT_SEEDS = 30
SHIFT_METHODS = (
    "joint, all pairs",
    "joint, exact",
    "joint",
    "gradient cosine, all pairs",
    "S(Γ), all pairs",
    "S(M)",
    "random",
    "oracle",
)
METHODS = (
    "joint",
    "gradient",
    "error",
    "activation",
    "joint blocks, token",
    "joint full, token",
    "joint profile, token",
    "joint profile, sequence",
    "gradient profile, token",
    "unigram_loss",
    "loss, lora trained",
    "gains of another seed",
    "chance",
)
"""What is shown of text and of strings, where it was measured; controls last."""
SIGNATURES = ("joint", "joint blocks, token", "joint full, token", "joint profile, sequence")
"""What stands beside the published figures; the others are baselines and controls."""
STRING_PAIRS = (
    ("joint", "activation"),
    ("joint", "unigram_loss"),
    *((method, "joint") for method in SIGNATURES[1:]),
    ("gradient profile, token", "gradient"),
)
STRING_SIZES = Sizes(3_000, 1_500)
ARTICLE_SIZES = Sizes(4_000, 1_500)


def shift(checkpoint: Checkpoint, seeds: int) -> list[Row]:
    """Five choices: of three kinds of text named by three words, the other five bijections."""
    setup = verbaliser_shift.Setup(classes=3, tasks=6, seeds=seeds)
    found = [*documents("train"), *documents("heldout")]
    measured = verbaliser_shift.run(setup, checkpoint, found)
    where = f"verbaliser shift, five choices, {seeds} splits of the documents, head trained"
    return shift_rows(measured, where)


def shift_rows(measured: list[verbaliser_shift.Measured], where: str) -> list[Row]:
    """How each score chose among five other namings, beside the published figures."""
    lines = {method: verbaliser_shift.judged(method, measured) for method in SHIFT_METHODS}
    rows = []
    for method, line in lines.items():
        share = Estimate(None, reason="no gain") if line.share is None else Estimate(*line.share)
        at_random = lines["random"].share or [None]
        for published, estimate, chance in (
            (SHIFT_TOP1, Estimate(*line.top1), None),
            (SHIFT_SHARE, share, at_random[0]),
        ):
            shown = published if method == "joint, all pairs" else None
            name = published.statistic
            rows.append(Row(shown, where, method, name, estimate, chance=chance))
    low, high = lines["S(M)"].range
    states = Estimate((low + high) / 2, low, high)
    said = "reproduced: all pairs tie; exactly 1 here, an estimate there"
    if high - low > 1e-6:
        said = "not reproduced: pairs differ"
    return [*rows, Row(SHIFT_STATES, where, "S(M)", "least and most", states, sentence=said)]


def of_domains(
    checkpoint: Checkpoint,
    domains: list[Domain],
    setup: transfer.Setup,
    folder: Path | None,
) -> dict[str, Transfer]:
    """Gains and scores of each setting, by the machinery of ``examples/transfer``."""
    measured = transfer.on_domains(checkpoint, domains, setup, folder, True)
    names = tuple(one.name for one in domains)
    words = {"head": f"the head alone, {setup.head.words}", "lora": setup.lora.words}
    return {
        how: transfer.transfer_of(f"{len(names)} domains, {how}", names, words[how], seeds)
        for how, seeds in measured.items()
    }


def natural(found: dict[str, Transfer], what: str) -> list[Row]:
    """Each domain as a target, with all others as candidate sources."""
    rows = []
    for how, one in found.items():
        seeds, tasks, _ = one.gains.shape
        where = f"natural shift, {tasks - 1} candidate {what}, {seeds} seeds, {how} trained"
        comparable = tasks == 25
        top1, share = (x if comparable else None for x in (NATURAL_TOP1, NATURAL_SHARE))
        known = {x.method for x in one.scores}
        shown = tuple(x for x in METHODS if x in known)
        for row in choice_rows(one, shown, where, top1, share):
            paper = row.method in SIGNATURES
            rows.append(row if paper else replace(row, published=None))
        rows += _against_activations(one, where)
    return rows


def _against_activations(one: Transfer, where: str) -> list[Row]:
    known = {x.method for x in one.scores}
    rows = []
    for method in SIGNATURES:
        if method in known:
            pair = compared(one, method, "activation")
            name = f"{method} less activation"
            low, high = pair.top1.low or 0.0, pair.top1.high or 0.0
            level = low <= 0 <= high
            said = "reproduced: level with activations alone" if level else "not level with them"
            rows.append(Row(None, where, name, "best source chosen", pair.top1, said))
    return rows


def strings(found: dict[str, Transfer]) -> list[Row]:
    """Nine domains of strings, over all ordered pairs."""
    rows = []
    for how, one in found.items():
        seeds, domains, _ = one.gains.shape
        where = f"{domains} domains of made-up strings, {seeds} seeds, {how} trained"
        for scores in one.scores:
            if scores.method not in METHODS or scores.method == "chance":
                continue
            judged = cross_domain(one.gains, scores.values)
            paper = scores.method in SIGNATURES
            said = f"p = {judged.p:.4f}" + (" (published .006)" if paper else "")
            if scores.method == "activation":
                mean, deviation = spread(scores)
                said += f" (published .081); scores {mean:.3f} ± {deviation:.3f}"
            published = STRINGS_RHO if paper else None
            rows.append(
                Row(published, where, scores.method, STRINGS_RHO.statistic, judged.rho, said)
            )
        by_name = {scores.method: scores.values for scores in one.scores}
        for method, than in STRING_PAIRS:
            if {method, than} <= by_name.keys():
                difference = cross_domain_difference(one.gains, by_name[method], by_name[than])
                name = f"{method} less {than}"
                rows.append(Row(None, where, name, "difference of Spearman", difference))
    return rows


def main() -> None:
    """Measure what is asked for, print the table and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--only", default=",".join(PROTOCOLS), help="which of these to measure")
    parser.add_argument("--wikitext", type=Path, help="a WikiText file, for the 25th domain")
    parser.add_argument("--model", help="another model than the bundled one")
    parser.add_argument("--articles", type=Path, nargs="+", help="WikiText, an article a domain")
    parser.add_argument("--transfer", type=Path, help="a folder of examples/transfer/run.py")
    parser.add_argument("--seeds", type=int, default=2, help="draws of texts")
    parser.add_argument("--tasks", type=int, default=25)
    parser.add_argument("--settings", default="head,lora", help="what is trained")
    parser.add_argument("--network-m", type=int, default=NetworkSetup().m, help="0 for none")
    parser.add_argument("--units", default=",".join(UNITS), help="of the network's samples")
    given = parser.parse_args()
    asked = given.only.split(",")
    if set(asked) - set(PROTOCOLS):
        parser.error(f"{min(set(asked) - set(PROTOCOLS))!r} is not one of {', '.join(PROTOCOLS)}")
    checkpoint = load(given.model or bundled_model())
    # Adapters are compared in the transfer benchmark.
    units = tuple(unit for unit in UNITS if unit in given.units.split(","))
    network = NetworkSetup(given.network_m, units, adapters=()) if given.network_m else None
    few = transfer.Setup(
        tasks=given.tasks,
        settings=tuple(given.settings.split(",")),
        curve=(),
        others=False,
        baselines=transfer.FEW,
        models=("loss",),
        network=network,
        wikitext=given.wikitext,
    )
    rows: list[Row] = []
    if "shift" in asked:
        rows += shift(checkpoint, SHIFT_SEEDS)
    if "natural" in asked:
        setup = replace(few, seeds=given.seeds)
        if given.articles:
            setup = replace(setup, sizes=ARTICLE_SIZES)
            domains = article_domains(given.articles, given.tasks)
        else:
            domains, reasons = transfer.gathered(checkpoint, setup)
            for name, reason in reasons.items():
                print(f"left out {name}: {reason}", file=sys.stderr)
        folder = (given.transfer or given.out / "natural") / "work"
        what = "articles" if given.articles else "domains of text"
        rows += natural(of_domains(checkpoint, domains, setup, folder), what)
    if "strings" in asked:
        setup = replace(few, seeds=given.seeds, sizes=STRING_SIZES, settings=("head", "lora"))
        domains = string_domains()
        rows += strings(of_domains(checkpoint, domains, setup, given.out / "strings" / "work"))
    for line in table(rows):
        print(line)
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False)
    (given.out / "protocols.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
