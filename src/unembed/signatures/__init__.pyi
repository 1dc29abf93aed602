from .alignment.estimators import squared_norm as squared_norm
from .alignment.exact import exact_alignments as exact_alignments
from .alignment.records import Alignments as Alignments
from .alignment.texts import align_texts as align_texts
from .alignment.texts import samples_of as samples_of
from .batch_sums import BatchSums as BatchSums
from .batch_sums import whole_state as whole_state
from .network.align import align_networks as align_networks
from .network.file import load_network as load_network
from .network.file import save_network as save_network
from .network.merging import merge as merge
from .network.modules import NetworkModule as NetworkModule
from .network.modules import network_modules as network_modules
from .network.records import NetworkAlignments as NetworkAlignments
from .network.run import sketch_network as sketch_network
from .network.signature import NetworkSignature as NetworkSignature
from .network.sketcher import NetworkOptions as NetworkOptions
from .reading.features import features as features
from .reading.sketcher import Sketcher as Sketcher
from .samples import Samples as Samples
from .sketches.constructions import sketch_of as sketch_of
from .verbalizers import Verbalizers as Verbalizers

__all__ = [
    # How alike texts are
    "Alignments",
    "align_texts",
    "exact_alignments",
    # What signatures are made of
    "Verbalizers",
    "merge",
    # Signatures of a whole network
    "NetworkAlignments",
    "NetworkModule",
    "NetworkOptions",
    "NetworkSignature",
    "align_networks",
    "load_network",
    "network_modules",
    "save_network",
    "sketch_network",
    # Positions with their hidden states
    "Samples",
    "samples_of",
    # The parts of a sketch, for passes of your own
    "BatchSums",
    "Sketcher",
    "features",
    "whole_state",
    "sketch_of",
    "squared_norm",
]
