"""How a text would move a model's head: sketch(model, corpus) -> Signature, in one pass."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from unembed.errors import UnembedError, need
from unembed.models.checkpoint import Checkpoint
from unembed.models.mode import restores_mode
from unembed.models.model_pass import ALONE, ModelPass
from unembed.runs.phases import Phases, current_phases
from unembed.runs.progress import progress_bar
from unembed.runs.provenance import SCHEMA
from unembed.runs.ranks import Ranks, current_ranks
from unembed.runs.store import RunFolder
from unembed.signatures.batch_sums import BatchSums, whole_state
from unembed.signatures.file import check_signature_output, load, save
from unembed.signatures.reading.sketcher import Sketcher, SketchOptions, refuse_not_finite
from unembed.signatures.signature import Signature, check_name, mismatch
from unembed.signatures.verbalizers import Verbalizers
from unembed.text.batches import Batch
from unembed.text.corpus import Corpus

KIND = "signature"
UNFINISHED = ".unfinished"


@restores_mode
def sketch(
    checkpoint: Checkpoint,
    corpus: Corpus,
    options: SketchOptions | None = None,
    *,
    out: str | Path | None = None,
    task: str | None = None,
    verbalizers: Verbalizers | None = None,
    at_most: bool = False,
    progress: bool = False,
) -> Signature:
    """The signature of a text for a model's head: a sketch of the Fisher of its gradients.

    Equivalent to, for the errors e = p - onehot(next token) and final hidden states a of a text::

        g = outer(e, a).flatten()                    # of each position: vocab * dim numbers
        F = mean(outer(g, g)); signature = S(F)      # a random linear map to m numbers

    without e, g or F. With ``out`` the signature is written there as safetensors; a killed run goes
    on where it stopped, and a finished file of the same run is checked and read. ``task`` names the
    signature (the file's name, or "text"). ``verbalizers`` restrict the softmax to answer words.
    ``options.max_positions`` are so many, and with ``at_most`` all positions of a shorter text.
    Raises UnembedError for input that cannot be used, and NonFiniteError, naming document and
    position, where a logit is not finite. Source: theory §7, §9.
    """
    if task is not None:
        check_name(task)
    need(checkpoint, Checkpoint, "give unembed.load(name)")
    need(corpus, Corpus, "give Corpus.read(path, tokenizer)")
    options = options or SketchOptions()
    if out is not None:
        check_signature_output(out)
    checkpoint.model.eval()
    task = task or (Path(out).name.removesuffix(".safetensors") if out else "text")
    if verbalizers is not None:
        corpus = verbalizers.answers(corpus)
    with current_phases()("prepare"):
        reading = ModelPass.of(checkpoint.model, corpus, options, checkpoint.name, hash_model=True)
    if not at_most:
        refuse_too_few(reading, options)
    if verbalizers is not None:
        head = verbalizers.head(reading.head, corpus.tokenizer)
        reading = replace(reading, head=head)
    sketcher = Sketcher.of(reading, options, checkpoint, task)
    if out is None:
        found = _pieces(reading, sketcher, frozenset(), progress)
        return sketcher.signature([whole_state(pieces) for _part, pieces in found])
    path = Path(out)
    key = run_key(KIND, reading, sketcher.key, sketcher.facts)
    ranks = current_ranks()
    if ranks.from_first(f"whether {path} is there", path.exists()):
        return _finished(path, sketcher, key)
    reading.check_shares(ranks)
    unfinished = path.with_name(path.name + UNFINISHED)
    with RunFolder.open(unfinished, key) as folder:
        done = frozenset(Path(one).stem for one in folder.done)
        for part, pieces in _pieces(reading, sketcher, done, progress, ranks):
            sketcher.keep(folder, part, pieces)

        def save_all() -> Signature:
            made = sketcher.gathered(folder)
            signature = replace(made, facts=made.facts | {"run": run_digest(key)})
            save(signature, path)
            return signature

        signature = folder.by_first(save_all)
    if ranks.first:
        shutil.rmtree(unfinished)
    return load(path) if signature is None else signature


def refuse_too_few(reading: ModelPass, options: SketchOptions) -> None:
    """Raise UnembedError for a text with fewer positions than were asked for."""
    asked, positions = options.max_positions, reading.windows.positions
    if asked is not None and positions < asked:
        raise UnembedError(
            f"the text has {positions:,} positions and {asked:,} were asked for: give more text, "
            "or ask for fewer"
        )


def _pieces(
    reading: ModelPass,
    sketcher: Sketcher,
    done: frozenset[str],
    progress: bool,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[str, list[BatchSums]]]:
    """The samples of the batches of each part that is not done yet."""

    def work(team: tuple[nn.Module, ...], batch: Batch, phases: Phases) -> BatchSums:
        hidden = reading.hidden(team[0], batch, phases)
        targets = batch.targets.to(hidden.device)
        with phases("head"):
            given = (hidden, reading.head, targets, batch, 2, reading.precision)
            swept, found = sketcher.swept(*given)
        refuse_not_finite(reading, swept, batch, sketcher.facts["model"])
        return found

    with progress_bar("sketch", "tok", reading.windows.positions, progress) as bar:
        yield from reading.results(work, bar, current_phases(), done=done, ranks=ranks)


def run_key(
    kind: str, reading: ModelPass, sketched: dict[str, Any], facts: dict[str, str]
) -> dict[str, Any]:
    """The plain values that a signature's numbers depend on; ``sketched`` are its sketcher's."""
    return {
        "kind": kind,
        "schema": SCHEMA,
        **sketched,
        "text": facts["text_digest"],
        "context": facts["context"],
        "positions": reading.windows.positions,
        "batch_tokens": reading.plan.batch_tokens,
        "block_tokens": reading.plan.block_tokens,
        "part_positions": reading.plan.part_positions,
        **({} if reading.mixed else {"mixed_lengths": False}),
    }


def run_digest(key: dict[str, Any]) -> str:
    """What a signature's facts hold of its run's key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _finished(path: Path, sketcher: Sketcher, key: dict[str, Any]) -> Signature:
    """The signature that lies at the path, if it is this run's."""
    there = load(path)
    if there.facts.get("run") != run_digest(key):
        names = (str(path), "this run")
        differs = mismatch(there.identity, sketcher.identity, names)
        raise UnembedError(
            f"{path} holds another signature ({differs or 'of another text or length'}): give "
            "another -o, or delete it"
        )
    return there
