from transformers import AutoProcessor

from ..configuration import LimssrConfig
from .pipeline_limssr import ActionQualityAssessmentPipeline
from .processing_limssr import LimssrProcessor

__all__ = ["ActionQualityAssessmentPipeline", "LimssrProcessor"]

AutoProcessor.register(LimssrConfig, LimssrProcessor)
