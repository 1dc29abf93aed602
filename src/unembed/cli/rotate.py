"""``unembed rotate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import LOADING, PRINTING, TEXT, Source, opened
from unembed.cli.printing import say
from unembed.models.names import SCHEMES

MEASURED_POSITIONS = 20_000


@click.command("rotate", cls=Verb)
@click.argument("model")
@under(
    "Output",
    option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder to make."),
)
@PRINTING
@under(
    "Rotation",
    option(
        "--for",
        "scheme",
        type=click.Choice(list(SCHEMES)),
        default="int8",
        help="How the weights will be rounded.",
    ),
    option("--seed", type=int, default=0, help="Of the rotation it starts from."),
    option("--steps", type=int, help="To learn it; 0: a random one.", default_is="300"),
)
@under(
    "Measure",
    option("--text", "corpus", metavar="CORPUS", help="Count what rounding flips on this text."),
    option(
        "--max-positions",
        type=int,
        default=MEASURED_POSITIONS,
        help="Tokens of it to predict, from all over it.",
    ),
)
@TEXT
@LOADING
def rotate_command(
    model: str,
    out: Path,
    as_json: bool,
    quiet: bool,
    scheme: str,
    seed: int,
    steps: int | None,
    corpus: str | None,
    max_positions: int,
    **given: Any,
) -> None:
    """Turn MODEL so that rounding its weights flips fewer decisions.

    The same function in weights without large ones: no text is needed, and nothing is trained.
    MODEL is a local folder, a hub id or an adapter's folder.

    \b
    Example:
      unembed rotate ./my-model -o ./rotated --text reviews.jsonl
      unembed compare ./rotated reviews.jsonl --quantize int8 -o runs/int8
    \f
    The residual stream is turned by one rotation: gains of norms go into the linear layers behind
    them, what reads the stream becomes W Q, what writes to it Q^T W. The rotation is learned from
    the weights alone. What to turn is found by running the model, the logits of both are compared,
    and a model that no rotation is known for is refused with the name of the module.

    The folder loads with plain transformers. A tied head is no longer tied. Weights keep the
    model's precision: with --dtype float32 nothing is lost before the rounding.
    """
    from unembed.models.rotation.learn import STEPS
    from unembed.models.rotation.rotate import rotate
    from unembed.models.rotation.save import check_new_folder, save
    from unembed.runs.record import record_to_json

    source = Source.taken(given)
    check_new_folder(out)
    if corpus is not None:
        from unembed.decisions.audit.run import AuditOptions
        from unembed.decisions.flips_of_rounding import rounding_flips
        from unembed.models.quantization import check_scheme

        check_scheme(scheme)
        source.check(corpus)
        options = AuditOptions(top_k=2, max_positions=max_positions, spread=True)
    checkpoint = opened(model, **source.loading)
    steps = STEPS if steps is None else steps
    found = rotate(checkpoint, scheme, seed=seed, steps=steps, progress=not quiet)
    values = {
        "verdict": found.verdict,
        "to_mind": found.to_mind,
        **{k: v for k, v in record_to_json(found).items() if k != "checkpoint"},
    }
    said = str(found)
    if corpus is not None:
        text = source.read(corpus, checkpoint, quiet=quiet, options=options)
        flips = rounding_flips(
            checkpoint, found.checkpoint, scheme, text, options, progress=not quiet
        )
        said = f"{flips.verdict}\n{said}"
        values = {**values, "flips": {"verdict": flips.verdict, **record_to_json(flips)}}
    save(found.checkpoint, out)
    say(said, {**values, "folder": str(out)}, as_json, [("model", out)])
