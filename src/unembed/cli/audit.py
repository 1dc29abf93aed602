"""``unembed audit``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unembed.cli.help import Verb, option, under
from unembed.cli.options import BATCHES, LARGE_MODELS, LOADING, PRINTING, TEXT, WINDOWS, Source
from unembed.cli.printing import OUT, Output, typed, with_output
from unembed.cli.states import OF_A_TEXT, hidden_options, open_stored, stored_in_place_of

if TYPE_CHECKING:
    from unembed.decisions.audit.engine_logprobs import EngineLogprobs
    from unembed.decisions.audit.run import AuditOptions
    from unembed.models.checkpoint import Checkpoint
    from unembed.text.corpus import Corpus


@click.command("audit", cls=Verb)
@click.argument("model")
@click.argument("corpus", required=False)
@OUT
@PRINTING
@under(
    "Measure",
    option("--top-k", type=int, default=5, help="Candidates to keep; 0: none."),
    option("--facets", is_flag=True, help="Add the exact distance to the nearest facet."),
    option("--native-head", is_flag=True, help="Add what the head decides in its own precision."),
    option(
        "--logprobs",
        type=click.Path(path_type=Path),
        help="Another engine's, to set beside the exact ones: token_ids and logprobs of each row.",
    ),
    option(
        "--repeat-batching",
        type=int,
        default=0,
        help="Read the text in N further batch plans: which answers do they change?",
    ),
    option(
        "--slices",
        type=int,
        default=12,
        help="Draw the cells around so many of the narrowest decisions; 0: none.",
    ),
    option("--sketch", is_flag=True, help="Sketch the text in the same pass, for align."),
    option("--max-positions", type=int, help="Stop after so many predicted tokens."),
    option("--max-nonfinite", type=int, default=0, rare=True, help="Bad rows allowed."),
)
@hidden_options
@WINDOWS
@TEXT
@BATCHES
@LOADING
@LARGE_MODELS
@with_output
def audit_command(
    model: str,
    corpus: str | None,
    output: Output,
    sketch: bool,
    logprobs: Path | None,
    hidden: Path | None,
    states_are: str | None,
    **given: Any,
) -> None:
    """Measure every token decision of MODEL on CORPUS.

    MODEL is a local folder or a hub id. CORPUS is a .txt, .jsonl, .json, .csv, .tsv or .parquet
    file (.gz or .zst too), a folder of them, or a hub data set name[:config[:split]].

    \b
    Example:
      unembed audit ./my-model reviews.jsonl -o runs/reviews --text-column body
      unembed audit ./my-model prompts.jsonl -o runs/server --logprobs server.jsonl
      unembed audit ./my-model --hidden states/ -o runs/stored
    \f
    The run folder holds a table of the positions, a summary and a page. A killed run goes on with
    the same command. A record of --logprobs FILE (.jsonl or .parquet) is a row of CORPUS, in order:
    {"token_ids": [1, 317, 42], "logprobs": [null, -2.31, -0.08]}. --repeat-batching measures in the
    precision of --dtype. --hidden DIR reads hidden states in place of a body: those of unembed
    states, a .safetensors file a request with token_ids and hidden_states as vLLM's extractor
    writes them, or .parquet files with such columns; whether they lie before or after the final
    norm is tested. With --sketch the folder holds RUN/signature.safetensors, as unembed
    sketch writes it.
    """
    from unembed.decisions.audit.audit import audit
    from unembed.decisions.audit.run import AuditOptions
    from unembed.signatures.reading.sketcher import FILE, Sketcher, SketchOptions

    stored = stored_in_place_of(corpus, hidden, states_are)
    source = Source.taken(given)
    if stored:
        given = {name: value for name, value in given.items() if name not in OF_A_TEXT}
    options = AuditOptions(**given)
    checkpoint, text, options = (
        _open_stored(model, source, hidden, states_are, logprobs, options, output)
        if hidden is not None
        else _open(model, str(corpus), source, logprobs, options, output)
    )
    done = audit(
        checkpoint.model,
        text,
        options,
        out=output.folder,
        name=checkpoint.name,
        command=typed(),
        progress=output.progress,
        second_reader=(
            (lambda reading: Sketcher.of(reading, SketchOptions(), checkpoint, output.folder.name))
            if sketch
            else None
        ),
    )
    output.end(done, [("signature", output.folder / FILE)] if sketch else [])


def _open(
    model: str,
    corpus: str,
    source: Source,
    logprobs: Path | None,
    options: AuditOptions,
    output: Output,
) -> tuple[Checkpoint, Corpus, AuditOptions]:
    """MODEL and CORPUS, and the options with another engine's log-probabilities."""
    from unembed.decisions.audit.engine_logprobs import EngineLogprobs

    stored = None if logprobs is None else _stored(logprobs, model, corpus, source)
    checkpoint, text = source.open(model, corpus, quiet=output.quiet, options=options, notes=False)
    if logprobs is not None:
        if stored is None or stored[0] != text.digest:
            whole = options.max_positions is None
            stored = text.digest, EngineLogprobs.read(logprobs, text, whole=whole)
        options = replace(options, logprobs=stored[1])
    return checkpoint, text, options


def _open_stored(
    model: str,
    source: Source,
    hidden: Path,
    states_are: str | None,
    logprobs: Path | None,
    options: AuditOptions,
    output: Output,
) -> tuple[Checkpoint, Corpus, AuditOptions]:
    """The head and the tail of MODEL, the text of stored states, and the options with these."""
    from unembed.decisions.audit.engine_logprobs import EngineLogprobs

    options.check_stored()
    checkpoint, stored = open_stored(model, source, hidden, states_are, quiet=output.quiet)
    options = replace(options, stored=stored)
    options.check_model(checkpoint)
    if logprobs is not None:
        whole = options.max_positions is None
        read = EngineLogprobs.read(logprobs, stored.corpus, whole=whole)
        options = replace(options, logprobs=read)
    return checkpoint, stored.corpus, options


def _stored(
    file: Path, model: str, corpus: str, source: Source
) -> tuple[str, EngineLogprobs] | None:
    """The log-probabilities of a file, and the digest of the text that they are of.

    A file of another text is refused before a long load; None where the model alone can read it.
    """
    from unembed.decisions.audit.engine_logprobs import EngineLogprobs, check_file
    from unembed.errors import UnembedError
    from unembed.models.checkpoint import load_tokenizer
    from unembed.text.corpus import Corpus

    check_file(file)
    source.check(corpus)
    try:
        tokenizer = load_tokenizer(model)
    except UnembedError:
        return None
    text = Corpus.read(corpus, tokenizer, **source.reading)
    return text.digest, EngineLogprobs.read(file, text)
