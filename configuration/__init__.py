from .configuration_limssr import LimssrConfig

__all__ = ["LimssrConfig"]
