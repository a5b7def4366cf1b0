"""A wrong prompt changes the words of the prompt and nothing else."""

import pytest
import torch

from limssr.processing.processing_limssr import LimssrProcessor
from limssr.training.evaluation.wrong_prompt import with_wrong_prompt


def split(processor, features, mask) -> tuple[list[int], list[int]]:
    """Prompt and rest of one sample, of which a mask is available."""
    given = {name: [clips[0] if bit else None] for bit, (name, clips) in zip(mask, features.items(), strict=True)}
    ids = processor(features=given).input_ids[0].tolist()
    length = len(processor.encode_prompt(mask))
    return ids[:length], ids[length:]


@pytest.mark.parametrize(
    ("mask", "said"), [((1, 0, 0), (1, 1, 1)), ((0, 1, 1), (1, 1, 1)), ((1, 1, 1), (1, 0, 0))], ids=str
)
def test_the_prompt_is_that_of_another_mask(tiny_processor, tiny_features, mask, said):
    wrong = with_wrong_prompt(tiny_processor)
    (prompt, rest), (right_prompt, right_rest) = (
        split(processor, tiny_features, mask) for processor in (wrong, tiny_processor)
    )
    assert prompt == tiny_processor.encode_prompt(said)
    assert prompt != right_prompt == tiny_processor.encode_prompt(mask)
    assert rest == right_rest


def test_clips_and_settings_stay(tiny_processor, tiny_features):
    wrong = with_wrong_prompt(tiny_processor)
    inputs, right = wrong(features=tiny_features), tiny_processor(features=tiny_features)
    for name in ("video_features", "audio_clip_mask", "flow_features"):
        torch.testing.assert_close(inputs[name], right[name])
    assert wrong.max_clips == tiny_processor.max_clips


def test_a_model_that_reads_the_prompt_scores_otherwise(tiny_model, tiny_processor, tiny_features):
    with torch.no_grad():
        right, wrong = (
            tiny_model(**processor(features=tiny_features)).scores
            for processor in (tiny_processor, with_wrong_prompt(tiny_processor))
        )
    assert (right != wrong).all()


@pytest.mark.parametrize("settings", [{"use_prompt": False}, {"prompt": {"template": "Judge this."}}], ids=str)
def test_without_modalities_in_the_prompt_nothing_can_be_wrong(tiny_processor, settings):
    names = ("tokenizer", "modalities", "num_fusion_tokens")
    processor = LimssrProcessor(*(getattr(tiny_processor, name) for name in names), **settings)
    with pytest.raises(ValueError, match="the same for every mask"):
        with_wrong_prompt(processor)
