from .processing_limssr import LimssrProcessor

__all__ = ["LimssrProcessor"]
