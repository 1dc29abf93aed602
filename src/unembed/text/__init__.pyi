from .rows import PromptCompletion as PromptCompletion
from .vocabulary import Vocabulary as Vocabulary
from .windows import Batch as Batch

__all__ = [
    # What a corpus is made of
    "PromptCompletion",
    "Vocabulary",
    # What a pass reads of it
    "Batch",
]
