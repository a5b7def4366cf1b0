from transformers import AutoProcessor

from ..configuration import LimssrConfig
from .processing_limssr import LimssrProcessor

__all__ = ["LimssrProcessor"]

AutoProcessor.register(LimssrConfig, LimssrProcessor)
