from .adapters import adapted as adapted
from .checkpoint import token_ids as token_ids
from .costs.cost import cost as cost
from .costs.record import Cost as Cost
from .depths import Depths as Depths
from .model_check import ModelCheck as ModelCheck
from .model_check import check as check
from .model_pass import HeadReader as HeadReader
from .model_pass import ModelPass as ModelPass
from .model_pass import ReadingOptions as ReadingOptions
from .quantization import quantized as quantized
from .rotation.rotate import Rotation as Rotation
from .rotation.rotate import rotate as rotate
from .rotation.rotate import rotated as rotated
from .stored.states import StoredStates as StoredStates
from .stored.written import StatesOptions as StatesOptions
from .stored.written import WrittenStates as WrittenStates
from .stored.written import states as states
from .streams import Streams as Streams

__all__ = [
    # What is recovered and proved of a model
    "Depths",
    "ModelCheck",
    "check",
    # What a run of it will take
    "Cost",
    "cost",
    # Variants of a checkpoint
    "Rotation",
    "adapted",
    "quantized",
    "rotate",
    "rotated",
    # Hidden states on disk, in place of a body
    "StatesOptions",
    "StoredStates",
    "WrittenStates",
    "states",
    # Its tokens
    "token_ids",
    # One pass of a model over a text, for measurements of your own
    "HeadReader",
    "ModelPass",
    "ReadingOptions",
    "Streams",
]
