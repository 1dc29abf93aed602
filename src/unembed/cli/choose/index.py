"""``unembed index``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace as with_name
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.choose.index_build import JSON, WAIT, build_command
from unembed.cli.help import Listing, option, under
from unembed.cli.options import CONTEXT_IS, LOADING, PART, PRINTING, TEXT, Source
from unembed.cli.printing import say
from unembed.errors import UnembedError
from unembed.selection.scores import FEATURES

if TYPE_CHECKING:
    from unembed.models.checkpoint import Checkpoint
    from unembed.selection.index.index import Index
    from unembed.selection.index.query import Answer
    from unembed.signatures.signature import Signature
    from unembed.text.corpus import Corpus

FOLDER = click.Path(path_type=Path)
APPROXIMATE = option(
    "--approximate", is_flag=True, help="Look at likely entries alone; see unembed index build."
)
SHOWN = 60


@click.group("index", cls=Listing)
def index_command() -> None:
    """Keep signatures, and ask which of them a text is most like.

    \b
    Example:
      unembed index add domains law.safetensors news.safetensors --tag english
      unembed index query domains mine.safetensors
      unembed index route domains --model ./my-model --text "The court held that"
    """


index_command.add_command(build_command)


@index_command.command("add")
@click.argument("index", type=FOLDER)
@click.argument("signatures", nargs=-1, required=True, type=FOLDER)
@under(
    "Entry",
    option("--tag", "tags", multiple=True, help="Tag of these signatures; repeatable."),
    option("--licence", default="", show_default=False, help="Of the texts."),
    option("--note", default="", show_default=False, help="Anything else."),
    option("--name", help="What to call it, of one signature.", default_is="its own name"),
    option("--replace", is_flag=True, help="Put it in the place of another of its name."),
)
@under(
    "Index",
    option(
        "--by",
        type=click.Choice(list(FEATURES)),
        metavar="FEATURE",
        help=f"What cosines are of, in a new index: {', '.join(FEATURES)}.",
        default_is="joint",
    ),
    option(
        "--dtype",
        type=click.Choice(["float32", "float16", "int8"]),
        help="How a new index stores numbers.",
        default_is="float32",
    ),
    PART,
)
@WAIT
@JSON
def add_command(
    index: Path,
    signatures: tuple[Path, ...],
    tags: tuple[str, ...],
    licence: str,
    note: str,
    name: str | None,
    replace: bool,
    by: Any,
    dtype: Any,
    part: str | None,
    wait: float,
    as_json: bool,
) -> None:
    """Add SIGNATURES to INDEX, which is made if it is not there.

    All signatures of an index are of one model and one kind of sketch. Nothing is trained, and what
    is there is not written again. What was reported is on disk, whatever happens next.

    \b
    Example:
      unembed index add domains law.safetensors news.safetensors --tag english --licence CC-BY
    """
    from unembed.selection.index.entries import Label
    from unembed.selection.index.files import HEADER
    from unembed.selection.index.index import Index, points_of
    from unembed.signatures.signature import check_name

    if name is not None and len(signatures) > 1:
        raise UnembedError(f"--name {name!r} is for one signature, and {len(signatures)} are given")
    if name is not None:
        check_name(name)
    label = Label(tags, licence, note)
    there = Index.open(index, check=False, wait_s=wait) if (index / HEADER).exists() else None
    part = part if there is None else _part_of(there, part)
    loaded, digests = _signatures(signatures, part)
    named = [with_name(signed, name=name or signed.name) for signed in loaded]
    kind: str = by or "joint"
    identity = named[0].identity
    if there is not None:
        identity, kind = there.identity, there.by
        _agree(there, by, dtype)
    # Before a new index is made, which would be left empty.
    points = points_of(named, str(index), identity, kind, label, digests)
    if there is None:
        stored: Any = dtype or "float32"
        there = Index.create(index, identity, by=kind, dtype=stored, wait_s=wait, join=True)
        _agree(there, kind, dtype)
    added = there.put(points, replace=replace)
    _note(there)
    names = _listed([entry.name for entry in added])
    text = f"{index} has {len(there):,} entries: {names} added"
    say(text, {"index": str(index), "added": [entry.to_json() for entry in added]}, as_json)


@index_command.command("remove")
@click.argument("index", type=FOLDER)
@click.argument("names", nargs=-1, required=True)
@WAIT
@JSON
def remove_command(index: Path, names: tuple[str, ...], wait: float, as_json: bool) -> None:
    """Remove entries from INDEX by their NAMES; all of them or none.

    \b
    Example:
      unembed index remove domains law
    """
    from unembed.selection.index.index import Index

    there = Index.open(index, check=False, wait_s=wait)
    there.remove(names)
    _note(there)
    values = {"index": str(index), "entries": len(there)}
    say(f"{index} has {len(there):,} entries", values, as_json)


@index_command.command("list")
@click.argument("index", type=FOLDER)
@under(
    "Entries",
    option("--tag", "tags", multiple=True, help="Only entries with this tag; with all of them."),
    option("--verify", is_flag=True, help="Compare every vector with its checksum."),
)
@JSON
def list_command(index: Path, tags: tuple[str, ...], verify: bool, as_json: bool) -> None:
    """List the entries of INDEX.

    \b
    Example:
      unembed index list domains --tag english
    """
    from unembed.selection.index.entries import Label
    from unembed.selection.index.index import Index
    from unembed.selection.index.text import entries_text

    wanted = set(Label(tags).tags)
    there = Index.open(index, check=False)
    _note(there)
    if verify:
        there.verify()
    found = [entry for entry in there.entries if wanted <= set(entry.tags)]
    plain = {"index": str(index), "by": there.by, "dtype": there.dtype}
    entries = [one.to_json() for one in found]
    say(entries_text(found), {**plain, "entries": entries}, as_json)


@index_command.command("query")
@click.argument("index", type=FOLDER)
@click.argument("signature", type=FOLDER)
@under("Entries", option("--top", type=int, default=10, help="Entries to print."), APPROXIMATE)
@JSON
def query_command(index: Path, signature: Path, top: int, approximate: bool, as_json: bool) -> None:
    """Say which entries of INDEX a SIGNATURE is most like.

    \b
    Example:
      unembed sketch ./my-model mine.txt -o mine.safetensors
      unembed index query domains mine.safetensors --top 5
    """
    from unembed.selection.index.index import Index
    from unembed.selection.index.text import answer_text

    there = Index.open(index)
    _note(there)
    (signed,), (digest,) = _signatures([signature], _part_of(there))
    answer = there.query(signed, top, digest=digest, approximate=approximate)
    say(answer_text(answer), answer.to_json(), as_json)


@index_command.command("route")
@click.argument("index", type=FOLDER)
@click.argument("corpora", nargs=-1)
@PRINTING
@under("Model", option("--model", required=True, help="The model that the signatures are of."))
@LOADING
@under(
    "Text",
    option("--text", "texts", multiple=True, help="A prompt; repeatable."),
    option("--each", is_flag=True, help="Route every text by itself, not all together."),
    option("--context", type=int, help="Tokens a window.", default_is=CONTEXT_IS),
)
@TEXT
@under("Entries", option("--top", type=int, default=3, help="Entries to print."), APPROXIMATE)
def route_command(
    index: Path,
    corpora: tuple[str, ...],
    model: str,
    texts: tuple[str, ...],
    each: bool,
    context: int | None,
    top: int,
    approximate: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Say which entries of INDEX prompts or CORPORA are most like.

    One pass of the model. A few tokens give an order; cosines take more text, of several documents.

    \b
    Example:
      unembed index route domains --model ./my-model --text "The court held that"
      unembed index route domains --model ./my-model --each questions.txt answers.txt
    """
    from unembed.selection.index.index import Index
    from unembed.selection.index.route import route
    from unembed.selection.index.text import answer_text

    if not texts and not corpora:
        raise UnembedError("nothing to route: give --text or a CORPUS")
    source, there = Source.taken(given), Index.open(index)
    _note(there)
    checkpoint, sources = _sources(source, model, texts, corpora, each, quiet, context)
    groups = [[one] for one in sources] if each else [sources]
    answers: list[Answer] = [
        route(
            there,
            checkpoint,
            [corpus for _name, corpus in group],
            name=group[0][0] if len(group) == 1 else "the texts",
            top=top,
            context=context,
            approximate=approximate,
            progress=not quiet,
        )
        for group in groups
    ]
    said = [f"{one.query}\n" * each + answer_text(one) for one in answers]
    say("\n\n".join(said), {"answers": [one.to_json() for one in answers]}, as_json)


@index_command.command("map")
@click.argument("index", type=FOLDER)
@under("Output", option("-o", "--out", type=FOLDER, required=True, help="Page to write, .html."))
@JSON
def map_command(index: Path, out: Path, as_json: bool) -> None:
    """Draw the entries of INDEX on the axes that tell them best apart.

    \b
    Example:
      unembed index map domains -o domains.html
    """
    from unembed.report.index.page import index_page
    from unembed.report.pages import is_page
    from unembed.runs.files import check_output, write_output
    from unembed.selection.index.index import Index
    from unembed.selection.index.plane import map_of

    if out.is_dir():
        raise UnembedError(f"{out} is a folder: give a file, such as {out / 'map.html'}")
    check_output(out, is_page)
    there = Index.open(index)
    _note(there)
    found = map_of(there)
    spec, shown = there.identity.spec, len(found.names)
    facts = [
        ("Index", str(index)),
        ("Entries", f"{shown:,}" + f", drawn from {len(there):,}" * (shown < len(there))),
        ("Compared by", f"{there.by} features, {there.identity.fisher} Fisher"),
        ("Sketch", f"{spec.construction}, m = {spec.m:,}, seed {spec.seed}"),
        *([("Part of the network", there.identity.part)] if there.identity.part else []),
        ("Output head", f"{spec.vocab:,} x {spec.dim:,}, {there.identity.head_digest[:12]}"),
    ]
    page = index_page(found, title=f"A map of {index.name}", facts=facts)
    write_output(out, page.encode("utf-8", "replace"), is_page)
    text = f"{found.verdict}\n"
    if shown < len(there):
        text += f"\n{shown:,} of {len(there):,} entries, drawn at random"
    plain = {**vars(found), "points": found.points.tolist()}
    values = {"page": str(out), "verdict": found.verdict.to_json(), "map": plain}
    say(text, values, as_json, [("map", out)])


def _sources(
    source: Source,
    model: str,
    texts: tuple[str, ...],
    corpora: tuple[str, ...],
    each: bool,
    quiet: bool,
    context: int | None,
) -> tuple[Checkpoint, list[tuple[str, Corpus]]]:
    """The model, and every text by a name: prompts are one corpus, or with ``each`` one each."""
    from unembed.models.model_pass import ReadingOptions
    from unembed.text.corpus import Corpus

    options = ReadingOptions(context=context)
    checkpoint, read = source.open_all(model, corpora, quiet=quiet, options=options)
    prompts = [[text] for text in texts] if each else [list(texts)] if texts else []
    found = [(_listed(some), Corpus.from_texts(some, checkpoint.tokenizer)) for some in prompts]
    return checkpoint, [*found, *read.items()]


def _agree(index: Index, by: str | None, dtype: str | None) -> None:
    """Raise UnembedError where an index is of another kind than its options ask for."""
    for name, asked, found in (("by", by, index.by), ("dtype", dtype, index.dtype)):
        if asked not in (None, found):
            raise UnembedError(
                f"{index.folder} has {name} {found} and --{name} is {asked}: leave it out, or "
                "give another index"
            )


def _note(index: Index) -> None:
    """Say what an index lacks that may have been in it."""
    lost = index.unfinished
    if lost:
        click.echo(f"note: {lost}", err=True)


def _listed(names: list[str]) -> str:
    """The first name, and how many more."""
    first = names[0] if len(names[0]) <= SHOWN else f"{names[0][: SHOWN - 1]}…"
    return first if len(names) == 1 else f"{first} and {len(names) - 1:,} more"


def _part_of(index: Index, asked: str | None = None) -> str:
    """The part of networks that an index is of, which must be the one that is asked for."""
    found = index.identity.part or "head"
    if asked not in (None, found):
        raise UnembedError(
            f"{index.folder} is of part {found!r} and --part is {asked}: leave it out, or give "
            "another index"
        )
    return found


def _signatures(paths: Sequence[Path], part: str | None) -> tuple[list[Signature], list[str]]:
    """Signatures of files, or a part of them, and the SHA-256 of the files."""
    from unembed.signatures.reading.files import file_of, load_any, parts_of

    found = parts_of([(str(path), load_any(path)) for path in paths], part)
    return found, [hashlib.sha256(file_of(path).read_bytes()).hexdigest() for path in paths]
