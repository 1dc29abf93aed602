"""Draw docs/slice.svg and docs/slice.png: the cells around one decision of the bundled model.

    python docs/draw_slice.py

The text is the opening of a file of Python's own tests, which the model never saw.
"""

from __future__ import annotations

from pathlib import Path

import unembed
from unembed.decisions import AuditOptions
from unembed.demo.story import bundled_model
from unembed.demo.text import documents

DOCUMENT = "test/support/threading_helper.py"
WORDS = "because a threading.Thread object"
HALF = 10.0
"""Half the side of the window, in facet distances."""


def main() -> None:
    """Audit the text up to these words and a word more, and draw the decision behind them."""
    checkpoint = unembed.load(str(bundled_model()))
    text = next(one.text for one in documents("heldout") if one.name == DOCUMENT)
    end = text.index(" ", text.index(WORDS) + len(WORDS) + 1)
    corpus = unembed.Corpus.from_texts([text[:end]], checkpoint.tokenizer, names=[DOCUMENT])
    audit = unembed.audit(checkpoint.model, corpus, AuditOptions(), name="the bundled model")
    told = [row["context"] for row in audit.to_pandas(text=True).to_dict("records")]
    position = next(at for at, context in enumerate(told) if context.endswith(WORDS))
    figure = audit.plot.slice((0, position), checkpoint, corpus, half=HALF)
    for ending, more in (("svg", {}), ("png", {"scale_factor": 2})):
        figure.save(str(Path(__file__).with_name(f"slice.{ending}")), **more)


if __name__ == "__main__":
    main()
