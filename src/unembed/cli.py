"""The command line: parse, call the verb, save, print."""

from __future__ import annotations

import errno
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from unembed.errors import UnembedError


class Verbs(click.Group):
    """The verbs, with one policy for what goes wrong in any of them.

    What the user can mend is one line on stderr and exit status 2; Ctrl-C is one line and 130;
    anything else is a defect and keeps its traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb that was asked for."""
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
            return done
        except UnembedError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            _fail(f"the output cannot be printed: {error.strerror}; make room or print elsewhere")
        except KeyboardInterrupt:
            click.echo("unembed: stopped; the same command goes on from here", err=True)
            sys.exit(130)


def main() -> None:
    """Run the command line."""
    cli(prog_name="unembed")


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="unembed")
def cli() -> None:
    """The geometry of a language model's output head: measure, compare and move token decisions.

    \b
    Example:
      unembed audit ./my-model reviews.txt -o runs/reviews
    """


@cli.command("audit")
@click.argument("model")
@click.argument("corpus")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option(
    "--top-k",
    type=int,
    default=5,
    show_default=True,
    help="Candidates to keep; 0: none.",
)
@click.option("--facets", is_flag=True, help="Add the exact distance to the nearest facet.")
@click.option("--native-head", is_flag=True, help="Add what the checkpoint-precision head decides.")
@click.option("--context", type=int, help="Tokens of context [the model's, at most 2048].")
@click.option(
    "--overflow",
    type=click.Choice(["windows", "truncate"]),
    default="windows",
    show_default=True,
    help="Rows longer than the context: consecutive windows, or drop the rest.",
)
@click.option("--max-positions", type=int, help="Stop after so many predicted tokens.")
@click.option("--text-column", default="text", show_default=True, help="Column of a record's text.")
@click.option(
    "--document",
    help="What a document is, for the intervals: a regular expression that its first line matches "
    "(.txt), or the column that names it (records). [a row]",
)
@click.option("--max-nonfinite", type=int, default=0, show_default=True, help="Bad rows allowed.")
@click.option("--batch-tokens", type=int, help="Padded tokens a batch [2048 on CPU, 16384 on GPU].")
@click.option(
    "--part-positions",
    type=int,
    default=1 << 15,
    show_default=True,
    help="Positions a file holds; a killed run loses at most one file.",
)
@click.option("--dtype", default="auto", show_default=True, help="Precision of the model's body.")
@click.option("--device", help="Where to run [a GPU if there is one].")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--trust-remote-code", is_flag=True, help="Let the checkpoint run its own code.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--profile", is_flag=True, help="Print on stderr where the time went.")
def audit_command(
    model: str, corpus: str, out: Path, as_json: bool, quiet: bool, profile: bool, **given: Any
) -> None:
    """Measure every token decision of MODEL on CORPUS, and write table, summary and report.

    MODEL is a local folder or a hub id. CORPUS is a .txt, .jsonl or .parquet file, a folder of
    them, or a hub data set name[:config[:split]]. A killed run goes on with the same command.

    \b
    Example:
      unembed audit ./my-model reviews.jsonl -o runs/reviews --text-column body
    """
    from unembed.cells.audit import audit
    from unembed.cells.run import AuditOptions
    from unembed.corpus import Corpus
    from unembed.models import load, waiter
    from unembed.phases import Phases
    from unembed.rows import RowRules, read_rows
    from unembed.store import check_folder, holds_finished_run

    loading = {k: given.pop(k) for k in ("dtype", "device", "revision", "trust_remote_code")}
    reading = {k: given.pop(k) for k in ("text_column", "document")}
    options = AuditOptions(**given)
    check_folder(out)
    next(read_rows(corpus, RowRules(**reading)), None)  # a bad name fails before a long load
    phases = Phases()
    with phases("load"):
        checkpoint = load(model, **loading)
    if profile:
        phases = Phases(phases.seconds, waiter(checkpoint.model))
    with phases("read"):
        text = Corpus.read(corpus, checkpoint.tokenizer, **reading, progress=not quiet)
    finished = holds_finished_run(out)
    done = audit(
        checkpoint.model,
        text,
        options,
        out=out,
        name=checkpoint.name,
        command=shlex.join(["unembed", *sys.argv[1:]]),
        progress=not quiet,
        phases=phases,
    )
    if finished:
        click.echo(f"{out} was finished before: verified, nothing computed again", err=True)
    with phases("report"):
        _show(done, out, as_json)
    if profile:
        click.echo(str(phases), err=True)


@cli.command("compare")
@click.argument("before")
@click.argument("after")
@click.argument("corpus", required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option(
    "--seed-before",
    "more_before",
    metavar="RUN",
    multiple=True,
    help="A further run of BEFORE, trained with another seed; repeatable.",
)
@click.option(
    "--seed-after",
    "more_after",
    metavar="RUN",
    multiple=True,
    help="A further run of AFTER, trained with another seed; repeatable.",
)
@click.option("--class", "classes", multiple=True, help="Keep targets of this token class.")
@click.option(
    "--frequency", "frequencies", multiple=True, help="Keep targets that occur so often: 1, 2-4 …"
)
@click.option("--band", "bands", multiple=True, help="Keep margins before in this band: [0, 0.5) …")
@click.option("--documents", help="Keep documents whose name this regular expression finds.")
@click.option(
    "--terms",
    "terms_file",
    type=click.Path(path_type=Path),
    help="Keep targets that are part of a term in this file, one a line.",
)
@click.option("--tokenizer", help="What spells the terms [the checkpoint audited before].")
@click.option("--max-positions", type=int, help="With CORPUS: stop after so many tokens.")
@click.option("--top-k", type=int, help="With CORPUS: candidates to keep and to overlap [5].")
@click.option("--context", type=int, help="With CORPUS, as in audit.")
@click.option("--batch-tokens", type=int, help="With CORPUS, as in audit.")
@click.option("--text-column", help="With CORPUS, as in audit.")
@click.option("--document", help="With CORPUS, as in audit.")
@click.option("--dtype", help="With CORPUS: precision of the first body [the checkpoint's].")
@click.option("--dtype-after", help="With CORPUS: of the second [as --dtype].")
@click.option("--quantize", help="Make the second model from the first: int8 or int4 weights.")
@click.option("--quantize-head", is_flag=True, default=None, help="The head's weights too.")
@click.option("--device", help="With CORPUS, as in audit.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def compare_command(
    before: str,
    after: str,
    corpus: str | None,
    out: Path,
    more_before: tuple[str, ...],
    more_after: tuple[str, ...],
    terms_file: Path | None,
    tokenizer: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Say which decisions changed between two models, and whether they were right.

    Without CORPUS, BEFORE and AFTER are run folders of unembed audit on one text, of any two
    checkpoints with one tokenizer. With CORPUS they are the checkpoints: both are run together,
    which adds exact KL divergences, total variation and the chance of acceptance in speculative
    decoding, without storing a logit. Their audits are in RUN/before and RUN/after. With --quantize
    give MODEL and CORPUS: the second model is the first with its weights rounded.

    Further runs of a side, by --seed-before and --seed-after, are of checkpoints trained with other
    seeds: every pair is compared, and intervals hold the spread between seeds too.

    Several --class, --frequency or --band keep positions of any of them; different options keep
    those that pass all.

    \b
    Example:
      unembed compare runs/base runs/tuned -o runs/base-tuned
      unembed compare ./base ./tuned reviews.txt -o runs/live
      unembed compare ./base reviews.txt --quantize int8 -o runs/int8
      unembed compare runs/base runs/int8 -o runs/names --class entity-like
      unembed compare runs/base runs/seed0 --seed-after runs/seed1 --seed-after runs/seed2 -o runs/3
    """
    from unembed.cells.audit import Audit
    from unembed.cells.compare import compare
    from unembed.cells.only import Only
    from unembed.models import load_tokenizer
    from unembed.rows import RowRules, read_rows
    from unembed.store import check_folder

    kept = {name: given.pop(name) for name in ("classes", "frequencies", "bands", "documents")}
    if terms_file is not None:
        lines = (row.text.strip() for row in read_rows(terms_file, RowRules()))
        kept["terms"] = tuple(line for line in lines if line)
    Only(**kept, tokenizer=...)  # a bad filter fails before a long load
    check_folder(out)
    command, apart = shlex.join(["unembed", *sys.argv[1:]]), None
    if given["quantize"] is not None:
        before, after, corpus = _to_quantize(before, after, corpus)
    if corpus is not None and (more_before or more_after):
        raise UnembedError(
            "--seed-before and --seed-after take no CORPUS: audit each checkpoint, and compare "
            "the runs"
        )
    if corpus is None:
        asked = [f"--{n.replace('_', '-')}" for n, value in given.items() if value is not None]
        if asked:
            raise UnembedError(
                f"{', '.join(asked)} needs a CORPUS: two runs are compared as they are"
            )
        olds, news = (
            [Audit.load(run) for run in runs]
            for runs in ((before, *more_before), (after, *more_after))
        )
    else:
        old, new, apart = _audited_both(before, after, corpus, out, command, not quiet, **given)
        olds, news = [old], [new]
    if terms_file is not None:
        kept["tokenizer"] = load_tokenizer(tokenizer or olds[0].provenance.model)
    done = compare(olds, news, divergence=apart, only=Only(**kept), out=out, command=command)
    _print(done, out, _page_of(done, out), as_json)


def _to_quantize(model: str, text: str, more: str | None) -> tuple[str, str, str]:
    """MODEL twice and its CORPUS, out of what was given before -o."""
    if more is not None:
        raise UnembedError(
            f"--quantize makes the second model from the first, so {text} is one too many: give "
            "MODEL CORPUS"
        )
    return model, model, text


def _audited_both(
    before: str,
    after: str,
    corpus: str,
    out: Path,
    command: str,
    progress: bool,
    *,
    text_column: str | None,
    document: str | None,
    dtype: str | None,
    dtype_after: str | None,
    quantize: str | None,
    quantize_head: bool | None,
    device: str | None,
    **given: Any,
) -> tuple[Any, Any, Any]:
    from unembed.cells.live import audit_both
    from unembed.cells.run import AuditOptions
    from unembed.corpus import Corpus
    from unembed.models import load
    from unembed.quantized import check_scheme, quantized
    from unembed.rows import RowRules, read_rows

    if quantize is not None:
        check_scheme(quantize)
    elif quantize_head:
        raise UnembedError("--quantize-head needs --quantize int8 or int4")
    text_column, dtype = text_column or "text", dtype or "auto"
    next(read_rows(corpus, RowRules(text_column, document)), None)
    old, new = (
        load(name, dtype=kind, device=device)
        for name, kind in ((before, dtype), (after, dtype_after or dtype))
    )
    if quantize is not None:
        new = quantized(new, quantize, head=bool(quantize_head))
    text = Corpus.read(
        corpus, old.tokenizer, text_column=text_column, document=document, progress=progress
    )
    options = AuditOptions(**{name: n for name, n in given.items() if n is not None})
    found = audit_both(old, new, text, options, out=out, command=command, progress=progress)
    return found.before, found.after, found.divergence


@cli.command("demo")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("unembed-demo"),
    show_default=True,
    help="Run folder, written afresh each time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def demo_command(out: Path, as_json: bool, quiet: bool) -> None:
    """Audit the bundled model on your own Python's library text, then its roundings.

    bfloat16 and int8 versions of it are compared with it (int8 takes the extra quant).

    The model is a small Llama trained on other modules of the standard library; the text is held
    out from its training. Nothing is downloaded. Takes about a minute.

    \b
    Example:
      unembed demo -o unembed-demo
    """
    from unembed.demo.story import run_demo

    command = shlex.join(["unembed", *sys.argv[1:]])
    story = run_demo(out, progress=not quiet, command=command)
    _show(story.audit, out, as_json)
    if as_json:
        return
    for name, comparison in story.rounded.items():
        click.echo(f"\nThe same model rounded to {name}:\n")
        _show(comparison, out / name, as_json)
    if "int8" not in story.rounded:
        click.echo("int8 was left out: pip install 'unembed[quant]'", err=True)


@cli.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Page to write [report.html in RUN]."
)
def report_command(run: Path, out: Path | None) -> None:
    """Draw the page of a finished run again, after checking every file of it.

    \b
    Example:
      unembed report runs/reviews -o reviews.html
    """
    from unembed.cells.audit import Audit
    from unembed.cells.compare import Comparison
    from unembed.report.drawing import ReportUnavailable
    from unembed.store import read_manifest

    page = out or run / "report.html"
    if page.is_dir():
        raise UnembedError(
            f"{page} is a folder: give a file for the page, such as {page}/page.html"
        )
    compared = read_manifest(run).provenance.get("kind") == "comparison"
    try:
        done = Comparison.load(run) if compared else Audit.load(run)
        click.echo(_write_page(done, run, page))
    except ReportUnavailable as error:
        raise UnembedError(str(error)) from error


def _show(done: Any, out: Path, as_json: bool) -> None:
    """Write the report and print the short table, or the summary as JSON."""
    _print(done, out, _page_of(done, out), as_json)


def _page_of(done: Any, out: Path) -> Path | None:
    """Write the run's page; without the plotting library, say so."""
    from unembed.report.drawing import ReportUnavailable

    try:
        return _write_page(done, out, out / "report.html")
    except ReportUnavailable as error:
        click.echo(f"no report: {error}", err=True)
        return None


def _print(done: Any, out: Path, report: Path | None, as_json: bool) -> None:
    """The short table and where everything lies, or the summary as JSON."""
    from unembed.cells.headline import as_text

    if as_json:
        summary = json.loads((out / "summary.json").read_text())
        click.echo(json.dumps({"run": str(out), "summary": summary}, indent=1))
        return
    places = [("run", out), ("report", report)]
    click.echo(str(done))
    click.echo(as_text((name, str(path)) for name, path in places if path is not None))


def _write_page(done: Any, run: Path, page: Path) -> Path:
    from unembed.cells.audit import Audit
    from unembed.store import read_manifest, write_whole

    draw = _audit_html if isinstance(done, Audit) else _comparison_html
    html = draw(done, read_manifest(run).command)
    write_whole(page, html.encode("utf-8", "replace"))
    return page


def _audit_html(done: Any, command: str) -> str:
    from unembed.cells.excerpt import excerpts
    from unembed.report.facts import facts_of
    from unembed.report.page import audit_page

    title = f"Token decisions of {Path(done.provenance.model).name}"
    return audit_page(title, done.summary, facts_of(done.provenance, command), excerpts(done))


def _comparison_html(done: Any, command: str) -> str:
    from unembed.cells.flip_excerpt import flip_excerpts
    from unembed.provenance import Provenance
    from unembed.report.facts import facts_of_both
    from unembed.report.page import comparison_page

    old, new = (Provenance.from_json(done.provenance[side]) for side in ("before", "after"))
    more = [
        [Provenance.from_json(run) for run in done.provenance[side]]
        for side in ("more_before", "more_after")
    ]
    names, first = (done.documents[name].to_pylist() for name in ("name", "first_token"))
    sides = [Path(side.model).name for side in (old, new)]
    if any(more):
        sides = [
            name + f" and {len(n)} more" * bool(n) for name, n in zip(sides, more, strict=True)
        ]
    elif sides[0] == sides[1]:
        sides = [f"{sides[0]} in {old.model_dtype}", new.model_dtype]
    title = f"From {sides[0]} to {sides[1]}: what changed"
    sample = flip_excerpts(done, done.vocabulary, names, first)
    return comparison_page(title, done.summary, facts_of_both(old, new, command, *more), sample)


def _fail(message: str) -> None:
    click.echo(f"unembed: {' '.join(message.split())}", err=True)
    sys.exit(2)
