from transformers import AutoConfig

from .configuration_limssr import LimssrConfig

__all__ = ["LimssrConfig"]

AutoConfig.register(LimssrConfig.model_type, LimssrConfig)
