from .files import write_whole as write_whole
from .listing import Listing as Listing
from .manifest import FinishedRun as FinishedRun
from .manifest import read_run as read_run
from .phases import Phases as Phases
from .progress import progress_bar as progress_bar
from .provenance import Provenance as Provenance
from .provenance import digest_of as digest_of
from .ranks import joined as joined
from .ranks import tensor_parallel as tensor_parallel

__all__ = [
    # What a run says of itself
    "FinishedRun",
    "Provenance",
    "digest_of",
    "read_run",
    # Records that show as a table
    "Listing",
    # Many processes
    "joined",
    "tensor_parallel",
    # Long work of your own
    "Phases",
    "progress_bar",
    "write_whole",
]
