"""LIMSSR: action quality assessment with missing modalities, as Hugging Face models, processors and trainers."""

from importlib import import_module

from transformers import AutoConfig, AutoModel, AutoProcessor

from limssr.configuration import LimssrConfig
from limssr.modeling_limssr import LimssrForScoreRegression, LimssrModel, LimssrPreTrainedModel, LimssrScoreOutput
from limssr.processing import LimssrProcessor

__version__ = "0.1.0"

_LAZY = {
    "LimssrCollator": "limssr.training.fitting.collator",
    "LimssrTrainer": "limssr.training.fitting.trainer",
    "LimssrTrainingArguments": "limssr.training.arguments",
}

__all__ = [
    "LimssrConfig",
    "LimssrForScoreRegression",
    "LimssrModel",
    "LimssrPreTrainedModel",
    "LimssrProcessor",
    "LimssrScoreOutput",
    *_LAZY,
]

AutoConfig.register(LimssrConfig.model_type, LimssrConfig)
AutoModel.register(LimssrConfig, LimssrForScoreRegression)
AutoProcessor.register(LimssrConfig, LimssrProcessor)


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'limssr' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
