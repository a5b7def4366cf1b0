from transformers import AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from ..configuration import LimssrConfig
from .pipeline_limssr import TASK, ActionQualityAssessmentPipeline
from .processing_limssr import LimssrProcessor

__all__ = ["ActionQualityAssessmentPipeline", "LimssrProcessor"]

AutoProcessor.register(LimssrConfig, LimssrProcessor)
PIPELINE_REGISTRY.register_pipeline(TASK, ActionQualityAssessmentPipeline, pt_model=AutoModel, type="multimodal")
