"""The runs of docs/findings/layers.md: how decisions form along the depth of three models.

    python examples/layers.py runs/layers                                # the bundled model
    python examples/layers.py runs/layers-untrained --untrained          # its shape, random weights
    python examples/layers.py runs/stories MODEL stories.txt
    python examples/layers.py runs/wikitext MODEL wikitext2-valid.txt

Without a text it is the first 4,000 characters of each document of the running interpreter's
library that the bundled model never saw; of a file with the headings of WikiText the first 4,000 of
each article, of another each line is a document.  The deeper model is made by
``scripts/train_demo_model.py --layers 12 --width 128``.  A killed run goes on when started again.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from unembed import Corpus, layers, load
from unembed.decisions import LayersOptions
from unembed.demo import bundled_model, documents

CHARACTERS = 4_000
ARTICLE = re.compile(r"^ = ([^=\n]+) = *$", re.MULTILINE)


def main() -> None:
    """Read the layers of one model on one text, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("model", nargs="?", default=str(bundled_model()))
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--untrained", action="store_true", help="the shape, with random weights")
    parser.add_argument("--depths", type=int, nargs="+", help="besides the last; all without it")
    parser.add_argument("--last", action="store_true", help="the cloud of documents' last tokens")
    given = parser.parse_args()
    text = text_of(given.text, AutoTokenizer.from_pretrained(given.model))
    model = load(given.model, dtype="float32").model
    if given.untrained:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(given.model)).eval()
    depths = None if given.depths is None else tuple(given.depths)
    options = LayersOptions(context=256, depths=depths, cloud_last=given.last)
    print(layers(model, text, options, out=given.out, name=given.out.name, progress=True))


def text_of(file: Path | None, tokenizer: object) -> Corpus:
    """The beginnings of documents, of a file or of what the bundled model never saw."""
    if file is None:
        found = {one.name: one.text for one in documents("heldout")}
    else:
        whole = file.read_text(encoding="utf-8")
        _first, *parts = ARTICLE.split(whole)
        lines = {f"line {at}": line for at, line in enumerate(whole.splitlines(), 1)}
        found = dict(zip(parts[::2], parts[1::2], strict=True)) or lines
    return Corpus.from_texts(
        [one[:CHARACTERS] for one in found.values()], tokenizer, names=list(found)
    )


if __name__ == "__main__":
    main()
