from .alignment.records import Alignments as Alignments
from .alignment.texts import align_texts as align_texts
from .signature import merge as merge

__all__ = [
    # How alike texts are
    "Alignments",
    "align_texts",
    # Signatures from parts
    "merge",
]
