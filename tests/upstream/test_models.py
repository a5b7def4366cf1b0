"""The model, configuration and training suites of transformers, run on our classes."""

import unittest
from unittest.mock import patch

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrModel, LimssrProcessor
from tests.helpers.models import make_tokenizer
from tests.helpers.upstream_suites import load, not_applicable

ModelTesterMixin = load("test_modeling_common").ModelTesterMixin
ConfigTester = load("test_configuration_common").ConfigTester
TrainingTesterMixin = load("test_training_mixin").TrainingTesterMixin

NEEDS_INPUT_IDS = "input_ids are always needed: they say where clips and added tokens stand"
ANY_INPUT_IDS = (
    "writes token ids where it likes, and a sequence needs its fusion tokens and boundaries in their places"
)
NOT_APPLICABLE = {
    "test_inputs_embeds": NEEDS_INPUT_IDS,
    "test_inputs_embeds_matches_input_ids": NEEDS_INPUT_IDS,
    "test_model_rope_scaling_from_config": ANY_INPUT_IDS,
    "test_model_weights_reload_no_missing_tied_weights": "weights without the language model's are an adapter for it",
    "test_resize_tokens_embeddings": ANY_INPUT_IDS + "; see test_resized_vocabulary",
}
# These load incomplete weights on purpose, which LimssrForScoreRegression refuses; they test what lies behind that.
INCOMPLETE_WEIGHTS = (
    "test_base_model_prefix_loads_base_weights",
    "test_can_init_all_missing_weights",
    "test_correct_missing_keys",
)


class LimssrModelTester:
    """A tiny configuration and a batch in which two samples lack a modality."""

    is_training = True
    batch_size = 7  # the suite fills smaller batches up with random input_ids, which are no sequences of ours
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4

    def __init__(self, text_config_class, modalities: dict, missing: dict, **config_fields):
        self.text_config_class = text_config_class
        self.modalities = modalities
        self.missing = missing
        self.config_fields = config_fields

    def get_config(self) -> LimssrConfig:
        text_config = self.text_config_class(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=48,
            vocab_size=264,
            max_position_embeddings=512,
        )
        return LimssrConfig(
            text_config=text_config,
            modalities=self.modalities,
            projector_dropout=0,
            head_dropout=0,
            **self.config_fields,
        )

    @property
    def seq_length(self) -> int:
        return self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        processor = LimssrProcessor.from_config(
            config, make_tokenizer(), prompt={"template": "Score it. {available}; {missing}."}
        )
        features = {
            name: [
                None if sample in self.missing[name] else self.content(size, sample)
                for sample in range(self.batch_size)
            ]
            for name, size in self.modalities.items()
        }
        return config, dict(processor(features=features))

    @staticmethod
    def content(size: int | str, sample: int):
        return "a clean dive" if size == "text" else torch.randn(2 + sample % 3, size)


@not_applicable(NOT_APPLICABLE)
class Suites(ModelTesterMixin, TrainingTesterMixin):
    all_model_classes = (LimssrModel, LimssrForScoreRegression)
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True
    training_overfit_steps = 100
    training_overfit_learning_rate = 3e-3

    def setUp(self):
        self.additional_model_inputs = list(self.model_tester.prepare_config_and_inputs_for_common()[1])
        # Where the suite looks up which class has no head, and so no loss.
        self.enterContext(patch.dict(MODEL_MAPPING_NAMES, limssr="LimssrModel"))
        if self._testMethodName in INCOMPLETE_WEIGHTS:
            self.enterContext(patch("limssr.modeling_limssr.checkpoint_limssr._require_all_weights"))

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is LimssrForScoreRegression:
            scores = torch.linspace(0.1, 0.9, self.model_tester.batch_size)
            inputs["labels"] = scores[:, None].expand(-1, self.model_tester.get_config().num_scores)
        return inputs

    def _create_text_training_batch(self, batch_size, **sizes):
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        inputs = self._prepare_for_class(inputs, LimssrForScoreRegression, return_labels=True)
        return {name: value[:batch_size] for name, value in inputs.items()}

    def _get_trainable_model_class(self):
        return LimssrForScoreRegression

    def test_config(self):
        tester = ConfigTester(self, LimssrConfig, has_text_modality=False, **self.model_tester.config_fields)
        tester.run_common_tests()

    def test_keep_in_fp32_modules(self):
        # Of the two lists a quantiser reads only the first, and loading in bfloat16 only the second; ours overlap.
        with (
            patch.multiple(LimssrModel, _keep_in_fp32_modules=()),
            patch.multiple(LimssrForScoreRegression, _keep_in_fp32_modules=()),
        ):
            super().test_keep_in_fp32_modules()

    def test_model_outputs_equivalence(self):
        self.all_model_classes = (
            LimssrForScoreRegression,
        )  # the suite subtracts tensors, which LimssrModel's mask forbids
        super().test_model_outputs_equivalence()

    def test_resized_vocabulary(self):
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            model = model_class(config).eval()
            with torch.no_grad():
                expected = model(**inputs)[0]
            for size in (274, 257):  # 257: as many as the tokenizer has words
                table = model.resize_token_embeddings(size)
                assert table.num_embeddings == size
                assert model.config.text_config.vocab_size == size
                assert not table.weight.requires_grad
                with torch.no_grad():
                    torch.testing.assert_close(model(**inputs)[0], expected)

    @pytest.mark.slow
    def test_bc_torch_dtype(self):
        super().test_bc_torch_dtype()

    @pytest.mark.slow
    def test_training_overfit(self):
        with patch.object(LimssrConfig, "vocab_size", 264, create=True):  # of the batch, which is ours
            super().test_training_overfit()


class Qwen3Test(Suites, unittest.TestCase):
    """LoRA, two modalities of features."""

    model_tester = LimssrModelTester(
        Qwen3Config, modalities={"video": 8, "audio": 4}, missing={"video": [2], "audio": [1, 4]}
    )


class LlamaTest(Suites, unittest.TestCase):
    """The whole language model trained, a modality of text, two scores."""

    model_tester = LimssrModelTester(
        LlamaConfig,
        modalities={"video": 8, "commentary": "text"},
        missing={"video": [2], "commentary": [1, 4]},
        language_model_training="full",
        score_names=["technical", "artistic"],
    )
