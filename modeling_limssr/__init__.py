from .modeling_limssr import (
    LimssrForScoreRegression,
    LimssrModel,
    LimssrModelOutput,
    LimssrPreTrainedModel,
    LimssrScoreOutput,
)

__all__ = [
    "LimssrForScoreRegression",
    "LimssrModel",
    "LimssrModelOutput",
    "LimssrPreTrainedModel",
    "LimssrScoreOutput",
]
