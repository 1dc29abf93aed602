"""``unembed sketch``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.help import Verb, Words, option, under
from unembed.cli.options import BATCHES, LARGE_MODELS, LOADING, PRINTING, TEXT, WINDOWS, Source
from unembed.cli.printing import echo, say
from unembed.cli.states import OF_A_TEXT, hidden_options, open_stored, stored_in_place_of
from unembed.errors import UnembedError
from unembed.signatures.network.names import DEFAULT_PART
from unembed.signatures.sketches.names import CONSTRUCTIONS, DEFAULT

if TYPE_CHECKING:
    from unembed.signatures.signature import Signature
    from unembed.signatures.verbalizers import Verbalizers

FILE = click.Path(path_type=Path)
BACKWARD = ("float32", "bfloat16", "float16")


@click.command("sketch", cls=Verb)
@click.argument("model")
@click.argument("corpus", required=False)
@under(
    "Output",
    option("-o", "--out", type=FILE, required=True, help="Signature to write, .safetensors."),
)
@PRINTING
@under(
    "Output",
    option("--name", "task", help="What alignments call it.", default_is="the file's name"),
    option(
        "--export",
        type=FILE,
        rare=True,
        help="Also write the compact signature (16 KiB): a file, or the folder of an adapter.",
    ),
    option(
        "--export-dtype",
        type=click.Choice(["float32", "float16", "int8"]),
        default="float32",
        rare=True,
        help="Of the compact signature.",
    ),
)
@under(
    "Signature",
    option(
        "--labels",
        "fisher",
        type=Words({"text": "empirical", "model": "true"}),
        default="text",
        was="--fisher",
        help="The text's next tokens, or the model's own distribution.",
    ),
    option(
        "--unit",
        type=click.Choice(["token", "sequence"]),
        default="token",
        help="What a sample is.",
    ),
    option("--first-moment", is_flag=True, help="Keep mean gradients: a signed cosine."),
    option("--size", "m", type=int, default=4096, was="--m", help="Numbers a signature holds."),
    option("--seed", type=int, default=0, rare=True, help="Of the random maps."),
    option(
        "--construction",
        type=click.Choice(list(CONSTRUCTIONS)),
        default=DEFAULT,
        rare=True,
        metavar="KIND",
        help="Kind of random map: "
        + "; ".join(f"{name}, {one.meaning}" for name, one in CONSTRUCTIONS.items())
        + ".",
    ),
    option(
        "--verbalizers",
        type=FILE,
        rare=True,
        help="JSON with --completion-only: a list of answer words restricts the softmax to them; "
        "an object says which word replaces each completion.",
    ),
    option(
        "--restrict",
        is_flag=True,
        rare=True,
        help="Restrict the softmax to an object's words too.",
    ),
)
@under(
    "Network",
    option("--network", is_flag=True, help="Sketch the gradients of every linear module."),
    option(
        "--modules",
        metavar="PATTERNS",
        help="Only these, with commas between: patterns of names, depth:3-7, kind:q_proj, head.",
        default_is="all",
    ),
    option(
        "--backward",
        type=click.Choice(BACKWARD),
        help="Dtype of the backward pass, which must be the model's.",
        rare=True,
        default_is="float32",
    ),
    option(
        "--part",
        metavar="PART",
        help="The part that --export holds.",
        rare=True,
        default_is=DEFAULT_PART,
    ),
)
@under(
    "Text",
    option(
        "--max-positions",
        type=int,
        help="So many, of documents from all over the text.",
        default_is="all",
    ),
)
@hidden_options
@WINDOWS
@TEXT
@BATCHES
@LOADING
@LARGE_MODELS
def sketch_command(
    model: str,
    corpus: str | None,
    hidden: Path | None,
    states_are: str | None,
    out: Path,
    task: str | None,
    verbalizers: Path | None,
    restrict: bool,
    export: Path | None,
    export_dtype: Any,
    as_json: bool,
    quiet: bool,
    network: bool,
    modules: str | None,
    backward: Any,
    part: str | None,
    **given: Any,
) -> None:
    """Sketch how training on CORPUS would move MODEL's head.

    \b
    Example:
      unembed sketch ./my-model reviews.txt -o reviews.safetensors
      unembed sketch ./my-model reviews.txt -o reviews.safetensors --network
      unembed sketch ./my-model answers.jsonl -o answers.safetensors --completion-only
    \f
    Nothing is trained. The signature is a random projection of the Fisher of the head's gradients
    over the text. unembed align tells from two of them how alike the moves are. Signatures compare
    where model, construction, size, seed, unit and labels are the same. With --labels model there
    is no label noise, and the text needs no right next tokens. --max-positions draws from the first
    million positions of the text, or from 64 times as many. --hidden DIR reads stored states in
    place of a body, as in unembed audit. A killed run goes on with the same command.
    With --network a backward pass follows, and the signature has parts: the whole network (full),
    its modules without the products of two (blocks), each depth, each module, and the head, which
    is the signature that is made without it. Verbs that read it take --part. A gradient in bfloat16
    can be noise: give --dtype float32 to such a model.
    """
    from unembed.runs.ranks import current_ranks
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
    if part is not None and export is None:
        raise UnembedError(f"--part {part} is of --export: give that too, or leave it out")
    for name, value in (("modules", modules), ("backward", backward), ("part", part)):
        if value is not None and not network:
            raise UnembedError(f"--{name} {value} is of --network: give that too, or leave it out")
    for file in (out, *(() if export is None else (export_path(export),))):
        check_signature_output(file)
    words = None if verbalizers is None else Verbalizers.read(verbalizers, restrict)
    if words is None and restrict:
        raise UnembedError("--restrict needs --verbalizers: the words to restrict the softmax to")
    if words is not None and not given["completion_only"]:
        raise UnembedError("--verbalizers needs --completion-only: answers are completions")
    of_states = stored_in_place_of(corpus, hidden, states_are)
    source = Source.taken(given)
    if of_states:
        given = {name: value for name, value in given.items() if name not in OF_A_TEXT}
    if network:
        for name, value in (("--hidden", hidden), ("--verbalizers", verbalizers)):
            if value is not None:
                raise UnembedError(
                    f"{name} {value} is of the head alone: leave it out, or --network"
                )
        exporting = None if export is None else (export, export_dtype, part or DEFAULT_PART)
        _sketch_network(
            model,
            str(corpus),
            source,
            given,
            modules,
            backward,
            as_json,
            quiet,
            task=task,
            out=out,
            exporting=exporting,
        )
        return
    options = SketchOptions(**given)
    if hidden is not None:
        checkpoint, stored = open_stored(model, source, hidden, states_are, quiet=quiet)
        text, options = stored.corpus, replace(options, stored=stored)
    else:
        checkpoint, text = source.open(
            model, str(corpus), quiet=quiet, verbalizers=words, options=options, notes=False
        )
    if words is not None and not words.restrict and not quiet:
        _say_several_tokens(words, text.tokenizer)
    before = out.exists()
    made = sketch(
        checkpoint, text, options, out=out, task=task, verbalizers=words, progress=not quiet
    )
    if before:
        echo(f"{out} was finished before: verified, nothing computed again", err=True)
    if export is not None and current_ranks().first:
        export = exported(made, export, dtype=export_dtype)
    places = (("signature", out), ("compact signature", export))
    say(signature_text(made), _plain(made, out), as_json, places)


def _sketch_network(
    model: str,
    corpus: str,
    source: Source,
    given: dict[str, Any],
    modules: str | None,
    backward: Any,
    as_json: bool,
    quiet: bool,
    *,
    task: str | None,
    out: Path,
    exporting: tuple[Path, Any, str] | None,
) -> None:
    """What ``--network`` does; ``exporting`` is a place, a dtype and the part that goes there."""
    from unembed.models.devices.placement import refuse_spread
    from unembed.runs.ranks import current_ranks
    from unembed.signatures.alignment.tables import network_text
    from unembed.signatures.file import export as exported
    from unembed.signatures.network.modules import KIND, network_modules
    from unembed.signatures.network.run import sketch_network
    from unembed.signatures.network.signature import check_part, kinds_of, parts_kept
    from unembed.signatures.network.sketcher import NetworkOptions

    refuse_spread(model, source.loading.get("device_map"))
    patterns = tuple(one.strip() for one in (modules or "").split(",") if one.strip())
    if modules is not None and not patterns:
        raise UnembedError(
            f"--modules {modules!r} names none: give a pattern such as depth:3, or leave it out"
        )
    options = NetworkOptions(**given, modules=patterns, backward=backward or "float32")
    checkpoint, text = source.open(model, corpus, quiet=quiet, options=options, notes=False)
    if exporting is not None:
        found = network_modules(checkpoint.model, patterns)
        kinds = (f"{KIND}{kind}" for kind in kinds_of(found))
        check_part(exporting[2], (*parts_kept(found), *kinds), "the signature")
    before = out.exists()
    made = sketch_network(checkpoint, text, options, out=out, task=task, progress=not quiet)
    if before:
        echo(f"{out} was finished before: verified, nothing computed again", err=True)
    export = None
    if exporting is not None and current_ranks().first:
        place, dtype, part = exporting
        export = exported(made.part(part), place, dtype=dtype)
    first = next(iter(made.states.values()))
    plain = {
        "signature": str(out),
        "name": made.name,
        "samples": first.samples,
        "documents": first.documents,
        "unit": made.unit,
        "backward": made.precision,
        "parts": list(made.parts),
        "modules": [asdict(one) for one in made.modules],
        "facts": made.facts,
    }
    places = (("signature", out), ("compact signature", export))
    say(network_text(made), plain, as_json, places)


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
        **made.identity.plain(),
        "facts": made.facts,
    }
