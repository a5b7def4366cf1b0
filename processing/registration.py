"""Registers the pipeline with transformers, right after its module of pipelines was imported."""

from transformers import AutoModel
from transformers.pipelines import PIPELINE_REGISTRY

from ..configuration.configuration_limssr import PIPELINES

(_TASK,) = PIPELINES
# By its name, because this may run while the module of the pipeline is being imported.
_PIPELINE = f"{__package__}.pipeline_limssr.ActionQualityAssessmentPipeline"
PIPELINE_REGISTRY.supported_tasks[_TASK] = {"impl": _PIPELINE, "pt": (AutoModel,), "type": "multimodal"}
