from .provenance import Provenance as Provenance

__all__ = [
    # What a run says of itself
    "Provenance",
]
