"""The processor suite of transformers, run on our processor."""

import unittest

import numpy as np
from transformers import Qwen3Config

from limssr import LimssrConfig, LimssrProcessor
from tests.helpers.models import make_tokenizer
from tests.helpers.upstream_suites import load, not_applicable

ProcessorTesterMixin = load("test_processing_common").ProcessorTesterMixin

MODALITIES = {"video": 8, "audio": 4, "commentary": "text"}
NO_KWARGS = "this processor has no arguments of components, so `crop` and `return_tensors` are its own"
NOT_APPLICABLE = {
    "test_call_arguments_default_none": NO_KWARGS,
    "test_call_arguments_not_in_processor_kwargs": NO_KWARGS,
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": NO_KWARGS,
    "test_tokenizer_decode_defaults": "makes a processor without naming modalities, which have no default",
}


@not_applicable(NOT_APPLICABLE)
class ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = LimssrProcessor

    @classmethod
    def _setup_tokenizer(cls):
        config = LimssrConfig(text_config=Qwen3Config(vocab_size=264), modalities=MODALITIES)
        return LimssrProcessor.from_config(config, make_tokenizer()).tokenizer

    @staticmethod
    def prepare_processor_dict():
        return {"modalities": [list(pair) for pair in MODALITIES.items()], "max_clips": 5, "use_prompt": False}

    def test_model_input_names(self):
        processor = self.get_processor()
        inputs = processor(features={"video": [np.zeros((2, 8))], "commentary": ["a clean dive"]})
        assert set(inputs) == set(processor.model_input_names)
