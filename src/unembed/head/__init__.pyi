from .head import final_hidden as final_hidden
from .head import output_embedding as output_embedding
from .precision import Precision as Precision

__all__ = [
    # Up to the head, and the products behind it
    "Precision",
    "final_hidden",
    "output_embedding",
]
