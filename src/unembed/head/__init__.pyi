from .head import final_hidden as final_hidden
from .head import output_embedding as output_embedding
from .peers import ProcessGroupPeers as ProcessGroupPeers
from .peers import RowShare as RowShare
from .precision import Precision as Precision

__all__ = [
    # Up to the head, and the products behind it
    "Precision",
    "final_hidden",
    "output_embedding",
    # A head that several processes hold
    "ProcessGroupPeers",
    "RowShare",
]
