from transformers import AutoModel

from ..configuration import LimssrConfig
from .modeling_limssr import (
    LimssrForScoreRegression,
    LimssrModel,
    LimssrPreTrainedModel,
)
from .outputs_limssr import LimssrModelOutput, LimssrScoreOutput

__all__ = [
    "LimssrForScoreRegression",
    "LimssrModel",
    "LimssrModelOutput",
    "LimssrPreTrainedModel",
    "LimssrScoreOutput",
]

AutoModel.register(LimssrConfig, (LimssrForScoreRegression, LimssrModel))  # whichever was saved
