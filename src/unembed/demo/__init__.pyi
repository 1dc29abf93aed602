from .gains import HeadTraining as HeadTraining
from .gains import head_gains as head_gains
from .gains import samples_loss as samples_loss
from .gains import trained_head as trained_head
from .story import bundled_model as bundled_model
from .text import Document as Document
from .text import documents as documents

__all__ = [
    # A small model, and the text that it was trained and is evaluated on
    "Document",
    "bundled_model",
    "documents",
    # What training a head on one text gains on others
    "HeadTraining",
    "head_gains",
    "samples_loss",
    "trained_head",
]
