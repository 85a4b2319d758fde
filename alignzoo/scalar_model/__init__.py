"""A language model that says one number per text: a transformers backbone with a scalar head.

The number is read from the state before the end token that is appended to a text, so it has seen
the whole text and nothing else. A text in several segments, such as the steps of a solution, has a
number at the end of each, which depends on what stands before it alone.

Training goes through `Learner`: AdamW with float32 masters, warm-up, clipping, micro-batches, LoRA.
"""

from alignzoo.scalar_model.config import ScalarConfig
from alignzoo.scalar_model.model import ScalarModel
from alignzoo.scalar_model.texts import EncodedText, Text
from alignzoo.scalar_model.training import ScalarLoss

__all__ = ["EncodedText", "ScalarConfig", "ScalarLoss", "ScalarModel", "Text"]
