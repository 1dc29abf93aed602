"""A byte-pair tokenizer of SMILES strings whose tokens never cut an atom.

    python examples/molecules/tokenizer.py CC(=O)Oc1ccccc1C     # how a molecule is cut

Byte-pair merges are counted over atom-level pieces: ``Cl``, ``Br`` and whatever stands in brackets
are one piece each. The result is a plain byte-pair tokenizer, because the merges that join the
characters of such a piece come first of all. What MOSES never holds (charges, ``@``, ``%10``, other
elements) is ``<unk>``. A text is read as ``<s> molecule </s>``.

Beside molecules the vocabulary has a word that asks, `` ?``, and ten that answer, `` A`` to
`` H``, `` yes`` and `` no``. They begin with a space, which no molecule holds.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, BEGIN, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
ASK = " ?"
ANSWERS = tuple(f" {letter}" for letter in "ABCDEFGH")
YES, NO = " yes", " no"
WORDS = (ASK, *ANSWERS, YES, NO)
"""What no molecule holds: the word that asks, and those that answer."""
PIECES = re.compile(r"\[[^\]]*\]|%\d\d|Br|Cl|.")
"""Atom-level pieces of a SMILES string."""
CONTEXT = 64
"""Tokens that a model of these strings reads at most; the longest molecule of MOSES has fewer."""


def pieces(smiles: str) -> list[str]:
    """The atom-level pieces of a string: ``CCl[nH]`` is ``C``, ``Cl``, ``[nH]``."""
    return PIECES.findall(smiles)


def train_tokenizer(strings: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of ``size`` entries, special tokens and words included.

    Merges are counted with every piece as one character of the private use area, and then written
    out in the pieces' own characters, behind the merges that make the pieces.
    """
    cut = [pieces(s) for s in strings]
    known = sorted({piece for one in cut for piece in one})
    stand_in = {piece: chr(0xE000 + i) for i, piece in enumerate(known)}
    back = {character: piece for piece, character in stand_in.items()}
    making = list(dict.fromkeys(pair for piece in known for pair in merges_within(piece)))
    characters = sorted({c for piece in known for c in piece})
    vocabulary = [PAD, BEGIN, END, UNKNOWN, *characters]
    vocabulary += [a + b for a, b in making]

    counted = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=len(known) + size - len(vocabulary) - len(WORDS), show_progress=False
    )
    counted.train_from_iterator(("".join(map(stand_in.__getitem__, one)) for one in cut), trainer)
    written = [
        tuple("".join(map(back.__getitem__, part)) for part in pair) for pair in merges_of(counted)
    ]
    vocabulary += [a + b for a, b in written if a + b not in vocabulary]
    model = models.BPE(
        {token: i for i, token in enumerate(vocabulary)},
        [*making, *written],
        unk_token=UNKNOWN,
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, BEGIN, END, UNKNOWN])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        special_tokens=[(word, tokenizer.token_to_id(word)) for word in (BEGIN, END)],
    )
    if tokenizer.get_vocab_size() != size:
        raise SystemExit(f"only {tokenizer.get_vocab_size()} of {size} tokens were found")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def merges_within(piece: str) -> list[tuple[str, str]]:
    """The merges that make a piece of its characters, from the left."""
    return [(piece[:i], piece[i]) for i in range(1, len(piece))]


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merges of a byte-pair tokenizer, most urgent first."""
    return [(a, b) for a, b in json.loads(tokenizer.to_str())["model"]["merges"]]


def main() -> None:
    """Show how strings are cut by the tokenizer of the model in this folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("smiles", nargs="+")
    parser.add_argument("--model", default="examples/molecules/model")
    given = parser.parse_args()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(given.model)
    for one in given.smiles:
        print(" ".join(tokenizer.tokenize(one)))


if __name__ == "__main__":
    main()
