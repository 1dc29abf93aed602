"""``unembed compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.compare_layers import compare_layers_command, given_layers
from unembed.cli.compare_logs import compare_logs_command, given_logs
from unembed.cli.help import Several, Verb, option, under
from unembed.cli.ladder import asked_of, climb
from unembed.cli.launch import refuse_launcher
from unembed.cli.options import CONTEXT_IS, DEVICE_HELP, DEVICE_IS, PRINTING, TP, opened
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.decisions.names import CLASSES, FREQUENCY_NAMES
from unembed.errors import UnembedError
from unembed.models.names import CAST, DTYPES, SCHEMES
from unembed.runs.phases import current_phases

if TYPE_CHECKING:
    from unembed.decisions.comparison.drafts import DraftOptions
    from unembed.decisions.comparison.live import LiveAudits

NO_SEEDS = "take no CORPUS: audit each checkpoint, and compare the runs"
CLASS_HELP = "Targets of this token class; repeatable."


@click.command("compare", cls=Verb)
@click.argument("models", metavar="BEFORE AFTER... [CORPUS]", nargs=-1, required=True)
@OUT
@PRINTING
@under(
    "Positions to keep",
    option("--class", "classes", multiple=True, type=click.Choice(CLASSES), help=CLASS_HELP),
    option(
        "--frequency",
        "frequencies",
        multiple=True,
        type=click.Choice(FREQUENCY_NAMES),
        help="Targets that occur so often in the text.",
    ),
    option(
        "--band",
        "bands",
        multiple=True,
        metavar="RANGE",
        help="Margins before, in logits: 0-0.5, '<2', 5+.",
    ),
    option("--documents", help="Documents whose name matches this expression."),
    option(
        "--terms",
        "terms_file",
        type=click.Path(path_type=Path),
        help="Targets that are part of a term in this file.",
    ),
    option(
        "--tokenizer",
        rare=True,
        help="What spells the terms.",
        default_is="the checkpoint audited before",
    ),
)
@under(
    "With CORPUS",
    option(
        "--quantize",
        type=Several((*SCHEMES, CAST)),
        help="Make AFTER from BEFORE; several with commas.",
    ),
    option(
        "--quantize-head", is_flag=True, default=None, rare=True, help="The head's weights too."
    ),
    option(
        "--corpus",
        "more_texts",
        metavar="CORPUS",
        multiple=True,
        help="A further text; repeatable.",
    ),
    option("--max-positions", type=int, help="Stop after so many predicted tokens."),
    option("--context", type=int, help="Tokens a window.", default_is=CONTEXT_IS),
    option("--text-column", rare=True, help="Column of a record's text.", default_is="text"),
    option(
        "--document",
        rare=True,
        help="What a document is: its first line's pattern, or a column; of logs a field.",
        default_is="a row",
    ),
    option("--dtype", type=click.Choice(DTYPES), help="Precision of both", default_is="auto"),
    option(
        "--dtype-after",
        type=click.Choice(DTYPES),
        rare=True,
        help="Precision of AFTER",
        default_is="as --dtype",
    ),
    option("--device", help=DEVICE_HELP, default_is=DEVICE_IS),
    TP,
    option("--base", rare=True, help="The model below, of each side that is an adapter."),
    option("--max-nonfinite", type=int, rare=True, help="Bad rows allowed.", default_is="0"),
    option(
        "--top-k", type=int, rare=True, help="Candidates to keep and to overlap.", default_is="5"
    ),
    option(
        "--batch-tokens",
        type=int,
        rare=True,
        help="Tokens a batch at most; a longer window is read alone.",
        default_is="2048 on CPU, 16384 on GPU",
    ),
    option(
        "--part-positions",
        type=int,
        rare=True,
        help="Positions a file holds: a killed run loses at most one file, ranks share files.",
        default_is="32768",
    ),
    option("--mine", is_flag=True, default=None, help="What did the change teach?"),
)
@under(
    "Speculative decoding, with CORPUS",
    option("--draft", is_flag=True, default=None, help="Does AFTER pay as a draft of BEFORE?"),
    option(
        "--sampling",
        metavar="T=…,top-k=…,top-p=…",
        multiple=True,
        rare=True,
        help="A sampler beside T=1 and greedy decoding: T=0.8,top-p=0.95; repeatable.",
    ),
    option(
        "--draft-cost",
        type=float,
        rare=True,
        help="A pass of AFTER over one of BEFORE.",
        default_is="the ratio of their parameters",
    ),
    option(
        "--draft-tokens",
        type=int,
        rare=True,
        help="Drafted tokens a round at most.",
        default_is="12",
    ),
)
@under(
    "Seeds",
    option(
        "--seed-before",
        "more_before",
        metavar="RUN",
        multiple=True,
        rare=True,
        help="A further run of BEFORE, trained with another seed; repeatable.",
    ),
    option(
        "--seed-after",
        "more_after",
        metavar="RUN",
        multiple=True,
        rare=True,
        help="A further run of AFTER, trained with another seed; repeatable.",
    ),
)
@with_output
def compare_command(
    models: tuple[str, ...],
    more_texts: tuple[str, ...],
    output: Output,
    more_before: tuple[str, ...],
    more_after: tuple[str, ...],
    terms_file: Path | None,
    tokenizer: str | None,
    sampling: tuple[str, ...],
    **given: Any,
) -> None:
    """Say which decisions a model changed, and whether they were right.

    BEFORE and AFTER are audits of one text or, with CORPUS, two models, which adds divergences; two
    runs of layers; or logs of lm_eval --log_samples. Several models AFTER make a ladder.

    \b
    Example:
      unembed compare runs/base runs/tuned -o runs/base-tuned
      unembed compare ./base ./tuned reviews.txt -o runs/live
      unembed compare ./base reviews.txt --quantize int8 -o runs/int8
      unembed compare ./base ./gptq q4.gguf reviews.txt --quantize int8,int4 -o runs/ladder
      unembed compare ./large ./small reviews.txt --draft -o runs/draft
      unembed compare ./base ./tuned reviews.txt --mine -o runs/taught
    \f
    Without CORPUS, BEFORE and AFTER are run folders of unembed audit on one text, of any two
    checkpoints with one tokenizer. With CORPUS they are the checkpoints: both are run together,
    which adds exact KL divergences, total variation and the chance of acceptance in speculative
    decoding, without storing a logit. Their audits are in RUN/before and RUN/after. With --quantize
    give MODEL and CORPUS: the second model is the first with its weights rounded.

    With --draft the second model is judged as the draft of the first: the exact chance that a
    drafted token is accepted under each --sampling, the tokens that a pass of the first then yields
    along the text, and the speed-up, for each number of drafted tokens.

    A ladder has two models AFTER or more, schemes of --quantize among them, or several texts: one
    pass of BEFORE, each of them beside it, one table. Each model is loaded alone, and its
    comparison with BEFORE lies in RUN/NAME, called by its folder or file, or as NAME=MODEL says. A
    finished ladder takes further models: repeat its command with them.

    With --mine, what the change taught: the tokens that the second model expects more and less
    often than the first, with intervals that hold for all tokens together, the contexts in which
    they changed most, and the tokens behind which most probability moved.

    Further runs of a side, by --seed-before and --seed-after, are of checkpoints trained with other
    seeds: every pair is compared, and intervals hold the spread between seeds too.

    Two runs of unembed layers on one text are compared depth by depth, under each lens that both
    measured: which tokens changed where, and at which depth decisions settle.

    Logs of lm-evaluation-harness are paired sample by sample: the difference of each task and of
    their mean, McNemar's test, and Holm's correction for the number of tasks. --document names a
    field of the samples whose equal values belong together. The folder holds samples_*.jsonl and
    results_*.json; of several runs in one, give the results_*.json.

    Several --class, --frequency or --band keep positions of any of them; different options keep
    those that pass all.

    \b
    More examples:
      unembed compare runs/base runs/int8 -o runs/names --class entity-like
      unembed compare runs/base runs/int8 -o runs/narrow --band 0-0.5
      unembed compare runs/base runs/s0 --seed-after runs/s1 --seed-after runs/s2 -o runs/seeds
      unembed compare runs/base-layers runs/int8-layers -o runs/depths
      unembed compare logs/base logs/int8 -o runs/benchmarks
      unembed compare logs/base logs/int8 --document passage -o runs/benchmarks
    """
    from unembed.decisions.audit.audit import Audit
    from unembed.decisions.comparison.compare import compare
    from unembed.decisions.comparison.positions import PositionFilter
    from unembed.models.checkpoint import load_tokenizer
    from unembed.text.rows import RowRules, read_rows

    for are_given, command_of in (
        (given_logs, compare_logs_command),
        (given_layers, compare_layers_command),
    ):
        if len(models) > 1 and are_given(models[0], models[1]):
            refuse_launcher("comparing what was measured before")
            command_of(models[0], models[1], next(iter(models[2:]), None), output)
            return
    asked = asked_of(models, given["quantize"], more_texts)
    kept = {name: given.pop(name) for name in ("classes", "frequencies", "bands", "documents")}
    if terms_file is not None:
        lines = (row.text.strip() for row in read_rows(terms_file, RowRules()))
        kept["terms"] = tuple(line for line in lines if line)
    filtered = PositionFilter(**kept, tokenizer=...).words  # a bad one fails before a long load
    if given["mine"] and filtered is not None:
        raise UnembedError(
            f"--mine is about the whole text, and {filtered} keeps some positions: leave one of "
            "them out"
        )
    given["draft"] = _draft_options(given.pop("draft"), sampling, filtered, given)
    command, live = typed(), None
    if asked.is_ladder:
        if given.pop("draft") is not None:
            raise UnembedError("--draft judges one model for another: give a single model AFTER")
        if given.pop("mine"):
            raise UnembedError("--mine looks at one change: give a single model AFTER")
        if more_before or more_after:
            raise UnembedError(f"--seed-before and --seed-after {NO_SEEDS}")
        spelled_by = None if terms_file is None else tokenizer or asked.base
        climb(asked, output, kept, spelled_by, command, **given)
        return
    before, after, corpus = asked.pair
    given["quantize"], given["dtype_after"] = asked.rounding(given["dtype_after"])
    if corpus is not None and (more_before or more_after):
        raise UnembedError(f"--seed-before and --seed-after {NO_SEEDS}")
    if corpus is None:
        refuse_launcher("comparing two runs")
        names = [f"--{n.replace('_', '-')}" for n, value in given.items() if value is not None]
        if names:
            raise UnembedError(
                f"{', '.join(names)} needs a CORPUS: two runs are compared as they are"
            )
        olds, news = (
            [Audit.load(run) for run in runs]
            for runs in ((before, *more_before), (after, *more_after))
        )
    else:
        live = _audited_both(before, after, corpus, output, command, **given)
        olds, news = [live.before], [live.after]
    if terms_file is not None:
        kept["tokenizer"] = load_tokenizer(tokenizer or olds[0].provenance.model)
    with current_phases()("compare"):
        done = compare(
            olds,
            news,
            divergence=live and live.divergence_parts,
            readings=live.readings if live else (),
            only=PositionFilter(**kept),
            out=output.folder,
            command=command,
        )
    output.end(done)


def _draft_options(
    asked: bool | None, samplings: tuple[str, ...], filtered: str | None, given: dict[str, Any]
) -> DraftOptions | None:
    """How to judge a draft, if that is asked for; the options of it are taken from ``given``."""
    from unembed.decisions.comparison.drafts import DraftOptions
    from unembed.head.sampling import Sampling

    of_draft = {"cost": given.pop("draft_cost"), "drafted": given.pop("draft_tokens")}
    of_draft = {name: value for name, value in of_draft.items() if value is not None}
    if not asked:
        if of_draft or samplings:
            raise UnembedError("--sampling, --draft-cost and --draft-tokens need --draft")
        return None
    if filtered is not None:
        raise UnembedError(
            f"--draft is about whole stretches of the text, and {filtered} keeps single positions: "
            "leave one of them out"
        )
    return DraftOptions(tuple(map(Sampling.read, samplings)), **of_draft)


def _audited_both(
    before: str,
    after: str,
    corpus: str,
    output: Output,
    command: str,
    *,
    text_column: str | None,
    document: str | None,
    dtype: str | None,
    dtype_after: str | None,
    quantize: str | None,
    quantize_head: bool | None,
    device: str | None,
    base: str | None,
    draft: DraftOptions | None,
    mine: bool | None,
    **given: Any,
) -> LiveAudits:
    from unembed.decisions.audit.run import AuditOptions
    from unembed.decisions.comparison.drafts import DraftReader
    from unembed.decisions.comparison.live import audit_both
    from unembed.decisions.comparison.mining import MiningReader
    from unembed.decisions.comparison.tokenizers import refuse_other_texts, surely_alike
    from unembed.decisions.ladder.variants import Variant, others_than, shared_context
    from unembed.models.adapters import base_of, is_adapter_alone
    from unembed.models.quantization import check_scheme, quantized, rounded_shares
    from unembed.text.corpus import Corpus
    from unembed.text.rows import RowRules, read_rows
    from unembed.text.tokenised import ReadingLimit

    if quantize is not None:
        check_scheme(quantize)
    elif quantize_head:
        raise UnembedError("--quantize-head needs --quantize int8 or int4")
    text_column, dtype = text_column or "text", dtype or "auto"
    next(read_rows(corpus, RowRules(text_column, document)), None)
    adapters = [name for name in (before, after) if is_adapter_alone(name)]
    if base is not None and not adapters:
        raise UnembedError(
            f"--base {base} is for an adapter, and neither {before} nor {after} is one: leave "
            "--base out"
        )
    for name in adapters:
        base_of(name, base)
    options = AuditOptions(**{name: n for name, n in given.items() if n is not None})
    first, second = (
        Variant(name, place, base=base) for name, place in (("before", before), ("after", after))
    )
    shorter = shared_context(first, [second], options.context)
    for side in (first, *others_than(first, [second])):
        options.check_outline(side.outline)
    limit = None
    if options.max_positions is not None:
        truncate = options.overflow == "truncate"
        limit = ReadingLimit.of(options.max_positions, context=shorter, truncate=truncate)
    alike = before == after or surely_alike(first.outline, second.outline)
    sides = (first,) if alike else (first, second)
    phases = current_phases()
    with phases("read"):
        text, *again = (
            Corpus.read(
                corpus,
                tokenizer,
                text_column=text_column,
                document=document,
                limit=limit,
                progress=output.progress,
            )
            for tokenizer in (one.outline.tokenizer for one in sides)
        )
    for other in again:
        refuse_other_texts(first.outline, second.outline, text, other)
    for note in text.notes:
        click.echo(f"{corpus}: {note}", err=True)
    with phases("load"):
        old, new = (
            opened(name, dtype=kind, device=device, base=base if name in adapters else None)
            for name, kind in ((before, dtype), (after, dtype_after or dtype))
        )
    if quantize is not None:
        shares = rounded_shares(new.model, head=bool(quantize_head))
        click.echo(f"{quantize} rounds {'; '.join(map(str, shares))}", err=True)
        new = quantized(new, quantize, head=bool(quantize_head))
    for one in (old, new):
        options.check_model(one)
    return audit_both(
        old,
        new,
        text,
        options,
        readers=(
            *(() if draft is None else (DraftReader.of(old, new, draft),)),
            *((MiningReader(text),) if mine else ()),
        ),
        out=output.folder,
        command=command,
        progress=output.progress,
    )
