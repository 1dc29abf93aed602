from .phases import Phases as Phases
from .progress import progress_bar as progress_bar
from .provenance import Provenance as Provenance
from .provenance import digest_of as digest_of
from .store import write_whole as write_whole

__all__ = [
    # What a run says of itself
    "Provenance",
    "digest_of",
    # Long work of your own
    "Phases",
    "progress_bar",
    "write_whole",
]
