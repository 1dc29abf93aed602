from .batches import Batch as Batch
from .rows import PromptCompletion as PromptCompletion
from .vocabulary import Vocabulary as Vocabulary

__all__ = [
    # What a corpus is made of
    "PromptCompletion",
    "Vocabulary",
    # What a pass reads of it
    "Batch",
]
