"""``unembed sketch``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.options import BATCHES, LOADING, PRINTING, TEXT, WINDOWS, Source, with_options
from unembed.cli.printing import echo, say
from unembed.errors import UnembedError
from unembed.signatures.sketches.names import CONSTRUCTIONS, DEFAULT

if TYPE_CHECKING:
    from unembed.signatures.signature import Signature
    from unembed.signatures.verbalizers import Verbalizers

FILE = click.Path(path_type=Path)


@click.command("sketch")
@click.argument("model")
@click.argument("corpus")
@click.option("-o", "--out", type=FILE, required=True, help="Signature to write, .safetensors.")
@click.option("--name", "task", help="What alignments call it [the file's name].")
@click.option(
    "--fisher",
    type=click.Choice(["empirical", "true"]),
    default="empirical",
    show_default=True,
    help="Labels: the text's next tokens, or the model's own distribution (no label noise).",
)
@click.option(
    "--unit",
    type=click.Choice(["token", "sequence"]),
    default="token",
    show_default=True,
    help="A sample: a token, or a window whose gradients are summed first.",
)
@click.option("--first-moment", is_flag=True, help="Keep mean gradients: a signed cosine.")
@click.option(
    "--verbalizers",
    type=FILE,
    help="JSON with --completion-only: a list of answer words restricts the softmax to them; an "
    "object says which word replaces each completion.",
)
@click.option("--restrict", is_flag=True, help="Restrict the softmax to an object's words too.")
@click.option(
    "--max-positions",
    type=int,
    help="Take so many, of documents from all over "
    "the text: its first million positions, or 64 times as many [all].",
)
@with_options(*WINDOWS, *TEXT)
@click.option(
    "--construction",
    type=click.Choice(list(CONSTRUCTIONS)),
    default=DEFAULT,
    show_default=True,
    help="Kind of random map: "
    + "; ".join(f"{name}, {one.meaning}" for name, one in CONSTRUCTIONS.items())
    + ".",
)
@click.option("--m", type=int, default=4096, show_default=True, help="Numbers a signature holds.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random maps.")
@click.option(
    "--export",
    type=FILE,
    help="Also write the compact signature (16 KiB): a file, or the folder of an adapter.",
)
@click.option(
    "--export-dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of the compact signature.",
)
@with_options(*BATCHES, *LOADING, *PRINTING)
def sketch_command(
    model: str,
    corpus: str,
    out: Path,
    task: str | None,
    verbalizers: Path | None,
    restrict: bool,
    export: Path | None,
    export_dtype: Any,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Sketch how fine-tuning MODEL on CORPUS would move its output head, without training.

    The signature is a random projection of the Fisher of the head's gradients over the text.
    unembed align tells from two of them how alike the moves are. Signatures compare where model,
    construction, m, seed, unit and Fisher are the same. A killed run goes on with the same command.

    \b
    Example:
      unembed sketch ./my-model reviews.txt -o reviews.safetensors
      unembed sketch ./my-model answers.jsonl -o answers.safetensors --completion-only
    """
    from unembed.signatures.alignment.tables import signature_text
    from unembed.signatures.file import check_signature_output, export_path
    from unembed.signatures.file import export as exported
    from unembed.signatures.reading.run import sketch
    from unembed.signatures.reading.sketcher import SketchOptions
    from unembed.signatures.signature import check_name
    from unembed.signatures.verbalizers import Verbalizers

    if out.is_dir():
        raise UnembedError(f"{out} is a folder: give a file, such as {out / 'task.safetensors'}")
    if task is not None:
        check_name(task)
    for file in (out, *(() if export is None else (export_path(export),))):
        check_signature_output(file)
    words = None if verbalizers is None else Verbalizers.read(verbalizers, restrict)
    if words is None and restrict:
        raise UnembedError("--restrict needs --verbalizers: the words to restrict the softmax to")
    if words is not None and not given["completion_only"]:
        raise UnembedError("--verbalizers needs --completion-only: answers are completions")
    source = Source.taken(given)
    options = SketchOptions(**given)
    checkpoint, text = source.open(
        model, corpus, quiet=quiet, verbalizers=words, options=options, notes=False
    )
    if words is not None and not words.restrict and not quiet:
        _say_several_tokens(words, text.tokenizer)
    before = out.exists()
    made = sketch(
        checkpoint, text, options, out=out, task=task, verbalizers=words, progress=not quiet
    )
    if before:
        echo(f"{out} was finished before: verified, nothing computed again", err=True)
    if export is not None:
        export = exported(made, export, dtype=export_dtype)
    places = (("signature", out), ("compact signature", export))
    say(signature_text(made), _plain(made, out), as_json, places)


def _say_several_tokens(words: Verbalizers, tokenizer: Any) -> None:
    """Say that some answers are several decisions of the head, and not one."""
    several = words.several_tokens(tokenizer)
    if several:
        listed = ", ".join(repr(word) for word in several[:3]) + ", …" * (len(several) > 3)
        click.echo(
            f"note: {len(several)} of {len(words.words)} answer words are of several tokens "
            f"({listed}): each token is a sample, so such an answer counts as often as it has "
            "tokens, over the whole vocabulary; give words of one token and --restrict to count "
            "each answer once",
            err=True,
        )


def _plain(made: Signature, out: Path) -> dict[str, Any]:
    state = made.state
    return {
        "signature": str(out),
        "name": made.name,
        "samples": state.samples,
        "documents": state.documents,
        **asdict(made.identity),
        "facts": made.facts,
    }
