"""What the processor promises: the sequence of the design, any array form, and an error in words for bad input."""

import copy
from itertools import takewhile

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoProcessor

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.configuration.configuration_limssr import added_tokens

MASKS = [(1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)]


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def words(processor, ids) -> list[str]:
    """Added tokens by name, the prompt's own tokens dropped."""
    names = [processor.tokenizer.convert_ids_to_tokens(int(token_id)) for token_id in ids]
    return [name for name in names if name in set(processor._ids)]


def test_a_sequence_is_prompt_available_blocks_missing_blocks_fusion_tokens(tiny_processor):
    batch = tiny_processor(features={"audio": [torch.zeros(2, 12)], "flow": [torch.ones(1, 8)], "video": [None]})
    written = words(tiny_processor, batch.input_ids[0])
    assert written == [
        *("<|audio_start|>", "<|audio|>", "<|audio|>", "<|audio_end|>"),
        *("<|flow_start|>", "<|flow|>", "<|flow_end|>"),
        *("<|video_start|>", "<|missing_video|>", "<|missing_video|>", "<|video_end|>"),
        *("<|fusion_1|>", "<|fusion_2|>", "<|fusion_3|>", "<|fusion_4|>"),
    ]
    prompt = tiny_processor.encode_prompt((False, True, True))
    assert batch.input_ids[0, : len(prompt)].tolist() == prompt
    assert len(prompt) + len(written) == batch.attention_mask.sum()


def test_a_batch_has_the_documented_names_shapes_and_types(tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features, labels=[10.0, None, 30.0])
    assert set(batch) == {*tiny_processor.model_input_names, "labels"}
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
    assert batch.video_features.shape == (3, 9, 16)
    assert batch.video_features.dtype == torch.float32
    assert batch.video_clip_mask.dtype == torch.bool
    assert batch.video_clip_mask.sum(1).tolist() == [5, 0, 9]
    assert torch.equal(batch.video_features[0, :5], tiny_features["video"][0])
    assert batch.labels.shape == (3, 1)
    assert batch.labels.isnan().flatten().tolist() == [False, True, False]


def test_padding_is_on_the_right_and_masked(tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features)
    for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert (ids[length:] == tiny_processor.tokenizer.pad_token_id).all()
        assert ids[length - 1] == tiny_processor.tokenizer.convert_tokens_to_ids("<|fusion_4|>")


def test_numpy_torch_and_nested_lists_give_the_same_batch(tiny_processor, tiny_features):
    def converted(convert):
        features = {
            name: [None if clips is None else convert(clips) for clips in entries]
            for name, entries in tiny_features.items()
        }
        return tiny_processor(features=features)

    expected = tiny_processor(features=tiny_features)
    assert same(converted(lambda clips: clips.numpy()), expected)
    assert same(converted(lambda clips: clips.numpy().astype(np.float64)), expected)
    assert same(converted(lambda clips: clips.tolist()), expected)
    assert same(converted(lambda clips: clips.clone().requires_grad_()), expected)


@pytest.mark.filterwarnings("error")
def test_read_only_and_reversed_arrays_are_as_good_as_any(tiny_processor):
    clips = np.random.default_rng(0).random((4, 16), dtype=np.float32)
    expected = tiny_processor(features={"video": [clips]})
    backwards = clips[::-1].copy()[::-1]
    clips.flags.writeable = False
    assert same(tiny_processor(features={"video": [clips]}), expected)
    assert same(tiny_processor(features={"video": [backwards]}), expected)


def test_one_array_of_three_axes_is_a_batch_too(tiny_processor):
    clips = torch.randn(2, 3, 16)
    assert same(tiny_processor(features={"video": clips}), tiny_processor(features={"video": list(clips)}))


def test_a_leading_one_of_a_sample_is_dropped(tiny_processor, tiny_features):
    alone = {name: [array[None] for array in arrays if array is not None] for name, arrays in tiny_features.items()}
    alone = {name: arrays[:1] for name, arrays in alone.items()}
    expected = tiny_processor(features={name: [arrays[0][0]] for name, arrays in alone.items()})
    assert same(tiny_processor(features=alone), expected)


def test_columns_of_datasets_are_lists_of_samples(tiny_processor, tiny_features):
    plain = {
        name: [None if array is None else array.tolist() for array in arrays] for name, arrays in tiny_features.items()
    }
    rows = Dataset.from_dict(plain)
    expected = tiny_processor(features=tiny_features)
    for given in (rows, rows.with_format("numpy"), rows.with_format("torch")):
        assert same(tiny_processor(features={name: given[name] for name in rows.column_names}), expected)


def test_integers_and_half_precision_are_numbers_too(tiny_processor):
    for array in (np.ones((2, 8), dtype=np.int16), torch.ones(2, 8, dtype=torch.bfloat16)):
        assert torch.equal(tiny_processor(features={"flow": [array]}).flow_features, torch.ones(1, 2, 8))


def test_a_modality_left_out_equals_one_that_nobody_has(tiny_processor):
    audio = [torch.randn(3, 12), torch.randn(4, 12)]
    left_out = tiny_processor(features={"audio": audio})
    assert same(left_out, tiny_processor(features={"flow": [None, None], "video": [None, None], "audio": audio}))
    assert left_out.video_features.shape == (2, 0, 16)


def test_the_input_arrays_are_never_changed(tiny_processor):
    array = torch.randn(20, 16)
    before = array.clone()
    tiny_processor(features={"video": [array]}).video_features.zero_()
    assert torch.equal(array, before)


def test_centre_crop_keeps_the_middle(tiny_processor):
    clips = torch.arange(17.0)[:, None].expand(17, 16)
    batch = tiny_processor(features={"video": [clips]})
    assert batch.video_features[0, :, 0].tolist() == list(range(2, 14))


def test_random_crop_repeats_with_its_generator_and_reaches_both_ends(tiny_processor):
    clips = torch.arange(15.0)[:, None].expand(15, 16)

    def starts(seed):
        generator = torch.Generator().manual_seed(seed)
        batch = tiny_processor(features={"video": [clips] * 64}, crop="random", generator=generator)
        assert (batch.video_features[:, 1:, 0] - batch.video_features[:, :-1, 0] == 1).all()
        return batch.video_features[:, 0, 0].tolist()

    assert starts(0) == starts(0) != starts(1)
    assert set(starts(0)) == {0, 1, 2, 3}


def test_random_crop_is_aligned_across_modalities(tiny_processor):
    count = torch.arange(30.0)[:, None]
    batch = tiny_processor(
        features={"video": [count.expand(30, 16)] * 8, "audio": [count.expand(30, 12)] * 8},
        crop="random",
        generator=torch.Generator().manual_seed(3),
    )
    assert torch.equal(batch.video_features[..., 0], batch.audio_features[..., 0])
    assert len(set(batch.video_features[:, 0, 0].tolist())) > 1


def test_padding_to_max_clips_counts_zero_clips_as_real(tiny_config, tiny_tokenizer):
    processor = LimssrProcessor.from_config(tiny_config, tiny_tokenizer, max_clips=6, pad_to_max_clips=True)
    batch = processor(features={"video": [torch.ones(2, 16)]})
    assert batch.video_clip_mask.tolist() == [[True] * 6]
    assert batch.video_features[0, :, 0].tolist() == [1, 1, 0, 0, 0, 0]
    assert words(processor, batch.input_ids[0]).count("<|missing_audio|>") == 6


def test_placeholders_match_the_longest_modality_or_a_number(tiny_config, tiny_tokenizer):
    features = {"video": [torch.ones(2, 16)], "audio": [torch.ones(5, 12)]}
    for missing_length, expected in (("match", 5), (1, 1), (3, 3)):
        processor = LimssrProcessor.from_config(tiny_config, tiny_tokenizer, missing_length=missing_length)
        written = words(processor, processor(features=features).input_ids[0])
        assert written.count("<|missing_flow|>") == expected


def test_the_prompt_names_what_is_there_and_what_is_missing(tiny_processor):
    for mask in MASKS:
        text = tiny_processor.tokenizer.decode(tiny_processor.encode_prompt(tuple(map(bool, mask))))
        available, missing = text.split("Available: ")[1].split(" Missing: ")
        for name, there in zip(("video", "audio", "flow"), mask, strict=True):
            assert (name in available) == bool(there)
            assert (name in missing) == (not there)


def test_the_static_part_of_the_prompt_comes_first(tiny_processor):
    prompts = [tiny_processor.encode_prompt(tuple(map(bool, mask))) for mask in MASKS]
    shared = list(takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))
    assert len(shared) > 0.7 * max(map(len, prompts))


def test_the_wording_of_the_prompt_can_be_replaced(tiny_config, tiny_tokenizer):
    prompt = {
        "template": "{missing} gone, {available} here",
        "modality_names": {"video": "pictures"},
        "separator": "/",
        "none": "nothing",
    }
    processor = LimssrProcessor.from_config(tiny_config, tiny_tokenizer, prompt=prompt)
    assert (
        processor.tokenizer.decode(processor.encode_prompt((True, False, False))) == "audio/flow gone, pictures here"
    )
    full = processor.tokenizer.decode(processor.encode_prompt((True, True, True)))
    assert full == "nothing gone, pictures/audio/flow here"


@pytest.mark.parametrize(
    "template", ["{available} only", "{missing} only", "{available}{missing}{modality}", "{avaliable}"]
)
def test_a_prompt_that_names_half_of_the_modalities_or_something_else_is_refused(
    tiny_config, tiny_tokenizer, template
):
    with pytest.raises(ValueError, match=r"must contain.*available.*missing"):
        LimssrProcessor.from_config(tiny_config, tiny_tokenizer, prompt={"template": template})


def test_a_prompt_without_modalities_is_the_same_for_every_mask(tiny_config, tiny_tokenizer):
    processor = LimssrProcessor.from_config(tiny_config, tiny_tokenizer, prompt={"template": "score this"})
    prompts = [processor.encode_prompt(tuple(map(bool, mask))) for mask in MASKS]
    assert processor.tokenizer.decode(prompts[0]) == "score this"
    assert all(prompt == prompts[0] for prompt in prompts)


def test_without_a_prompt_the_sequence_starts_with_a_block(tiny_text_config, tiny_tokenizer):
    config = LimssrConfig(text_config=tiny_text_config, modalities={"video": 4}, use_prompt=False)
    processor = LimssrProcessor.from_config(config, tiny_tokenizer)
    batch = processor(features={"video": [torch.ones(1, 4)]})
    assert batch.input_ids[0, 0] == config.added_token_ids["<|video_start|>"]


def test_a_model_without_fusion_tokens_gets_none(tiny_text_config, tiny_tokenizer):
    config = LimssrConfig(text_config=tiny_text_config, modalities={"video": 4}, fusion="mean")
    processor = LimssrProcessor.from_config(config, tiny_tokenizer)
    assert words(processor, processor(features={"video": [torch.ones(1, 4)]}).input_ids[0])[-1] == "<|video_end|>"


def test_save_and_auto_load_round_trip_with_tokenizer(tmp_path, tiny_config, tiny_tokenizer, tiny_features):
    processor = LimssrProcessor.from_config(
        tiny_config, tiny_tokenizer, max_clips=7, missing_length=2, prompt={"template": "{available}|{missing}"}
    )
    expected = processor(features=tiny_features)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is LimssrProcessor
    assert list(loaded.feature_sizes.items()) == list(processor.feature_sizes.items())
    assert (loaded.max_clips, loaded.missing_length, loaded.prompt) == (7, 2, processor.prompt)
    assert same(loaded(features=tiny_features), expected)


def test_the_tokenizer_gives_added_tokens_the_ids_of_the_configuration(tmp_path, tiny_config, tiny_tokenizer):
    assert tiny_config.text_config.vocab_size > len(tiny_tokenizer)  # rows without a token, as in real models
    processor = LimssrProcessor.from_config(tiny_config, tiny_tokenizer)
    processor.save_pretrained(tmp_path)
    for tokenizer in (processor.tokenizer, AutoProcessor.from_pretrained(tmp_path).tokenizer):
        for name, token_id in tiny_config.added_token_ids.items():
            assert tokenizer.convert_tokens_to_ids(name) == token_id
            assert tokenizer(name).input_ids == [token_id]


def test_the_given_tokenizer_is_left_as_it_was(tiny_config, tiny_tokenizer):
    before = len(tiny_tokenizer)
    LimssrProcessor.from_config(tiny_config, tiny_tokenizer)
    assert len(tiny_tokenizer) == before


def test_a_tokenizer_that_has_other_tokens_at_these_ids_is_refused(tiny_config, tiny_tokenizer):
    ids = {name: index for index, name in enumerate(added_tokens(tiny_config.modalities, 4))}
    config = LimssrConfig(text_config=tiny_config.text_config, modalities=tiny_config.modalities, added_token_ids=ids)
    with pytest.raises(ValueError, match=r"<\|video_start\|> the id 0, where this tokenizer.*'!'"):
        LimssrProcessor.from_config(config, tiny_tokenizer)


@pytest.mark.parametrize(
    "settings", [{"max_clips": 0}, {"max_clips": 2.5}, {"missing_length": 0}, {"missing_length": "longest"}]
)
def test_impossible_settings_are_refused_by_name_and_value(tiny_config, tiny_tokenizer, settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        LimssrProcessor.from_config(tiny_config, tiny_tokenizer, **settings)


# what is wrong, the array, what the message must say it found and expected
BAD_ARRAYS = [
    ("width", np.zeros((4, 5)), r"expected shape \[clips, 16\], got \[4, 5\]"),
    ("rank 1", np.zeros(16), r"expected shape \[clips, 16\], got \[16\]"),
    ("rank 3", np.zeros((2, 2, 16)), r"expected shape \[clips, 16\], got \[2, 2, 16\]"),
    ("strings", np.full((2, 16), "a"), "expected an array of numbers.*<U1"),
    ("objects", np.full((2, 16), None), "expected an array of numbers.*object"),
    ("text", "a.npy", r"expected an array of numbers \[clips, 16\], got str 'a.npy'"),
    ("ragged rows", [[0.0] * 16, [0.0] * 15], "expected an array of numbers.*list"),
    ("booleans", np.ones((2, 16), dtype=bool), "expected real numbers, got dtype torch.bool"),
    ("complex", torch.zeros(2, 16, dtype=torch.complex64), "expected real numbers, got dtype torch.complex64"),
    ("no clips", np.zeros((0, 16)), "has no clips. Pass None"),
    ("NaN", np.full((3, 16), np.nan), "3 of 3 clips hold NaN or infinite values"),
    ("too large for float32", np.full((3, 16), 1e300), "3 of 3 clips hold NaN or infinite values"),
]


@pytest.mark.parametrize(("array", "message"), [case[1:] for case in BAD_ARRAYS], ids=[case[0] for case in BAD_ARRAYS])
def test_a_bad_array_is_refused_by_sample_modality_found_and_expected(tiny_processor, array, message):
    features = {"video": [np.zeros((2, 16)), array]}
    with pytest.raises((ValueError, TypeError), match=rf"^sample 1, modality 'video': .*{message}"):
        tiny_processor(features=features)
    with pytest.raises((ValueError, TypeError), match=r"^sample 'dive-7', modality 'video'"):
        tiny_processor(features=features, sample_ids=["dive-6", "dive-7"])


def test_one_infinite_value_is_counted(tiny_processor):
    clips = np.zeros((4, 8), dtype=np.float32)
    clips[2, 3] = np.inf
    with pytest.raises(ValueError, match="sample 0, modality 'flow': 1 of 4 clips"):
        tiny_processor(features={"flow": [clips]})


def test_features_beyond_the_bound_are_refused_by_name(tiny_config, tiny_tokenizer, tiny_processor):
    clips = np.full((4, 8), -1e20, dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"sample 'dive', modality 'flow'.*1e\+20, expected at most max_feature=1e\+15"
    ):
        tiny_processor(features={"flow": [clips]}, sample_ids=["dive"])
    tolerant = LimssrProcessor.from_config(tiny_config, tiny_tokenizer, max_feature=1e30)
    assert torch.equal(tolerant(features={"flow": [clips]})["flow_features"][0], torch.from_numpy(clips))
    for wrong in (0, -1.0, float("inf"), True, "1"):
        with pytest.raises(ValueError, match="max_feature is"):
            LimssrProcessor.from_config(tiny_config, tiny_tokenizer, max_feature=wrong)


@pytest.mark.parametrize("kind", ["writable", "read-only", "reversed"])
def test_a_batch_never_shares_memory_with_what_was_given(tiny_processor, kind):
    clips = np.arange(32, dtype=np.float32).reshape(4, 8)
    clips.flags.writeable = kind != "read-only"
    given = clips[::-1] if kind == "reversed" else clips
    before = given.copy()
    batch = tiny_processor(features={"flow": [given]})
    assert torch.equal(batch["flow_features"][0], torch.from_numpy(before))
    batch["flow_features"].zero_()
    assert np.array_equal(given, before)


def test_a_sample_without_any_modality_is_refused_by_name(tiny_processor):
    features = {"video": [np.zeros((1, 16)), None], "audio": [None, None]}
    with pytest.raises(ValueError, match=r"sample 'x' has no modality at all.*video.*audio.*flow"):
        tiny_processor(features=features, sample_ids=["w", "x"])


def test_an_unknown_modality_is_refused_with_the_known_ones(tiny_processor):
    with pytest.raises(ValueError, match=r"unknown modality 'sound'.*\['video', 'audio', 'flow'\]"):
        tiny_processor(features={"sound": [np.zeros((1, 16))]})


def test_a_ragged_batch_is_refused_with_its_numbers(tiny_processor):
    with pytest.raises(ValueError, match=r"different numbers of samples: \{'video': 2, 'audio': 1\}"):
        tiny_processor(features={"video": [np.zeros((1, 16))] * 2, "audio": [np.zeros((1, 12))]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": [np.zeros((1, 16))]}, "features is list, expected a dict"),
        ({"features": {}}, "features is dict, expected a dict"),
        ({"features": {"video": []}}, "no samples"),
        ({"features": {"video": np.zeros((1, 16))}}, r"features\['video'\] is ndarray, expected a list"),
        ({"features": {"video": [np.zeros((1, 16))]}, "sample_ids": ["a", "b"]}, "2 sample_ids for 1 samples"),
        ({"features": {"video": [np.zeros((1, 16))]}, "crop": "left"}, "crop is 'left'.*'center' and 'random'"),
        ({"features": {"video": [np.zeros((1, 16))]}, "return_tensors": "np"}, "return_tensors is 'np'"),
    ],
)
def test_bad_arguments_are_refused_in_words(tiny_processor, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tiny_processor(**arguments)


def test_samples_that_share_an_id_stay_separate_samples(tiny_processor):
    batch = tiny_processor(
        features={"video": [np.zeros((1, 16)), np.zeros((3, 16))]}, labels=[1, 2], sample_ids=["same", "same"]
    )
    assert batch.video_clip_mask.sum(1).tolist() == [1, 3]


@pytest.mark.parametrize(
    "labels",
    [
        [[1.0, 2.0], [3.0, None]],
        [[1, 2], [3, float("nan")]],
        np.array([[1, 2], [3, np.nan]]),
        torch.tensor([[1.0, 2.0], [3.0, torch.nan]]),
    ],
)
def test_labels_of_several_scores_come_in_any_form(tiny_processor, labels):
    batch = tiny_processor(features={"video": [np.zeros((1, 16))] * 2}, labels=labels)
    assert torch.equal(batch.labels.nan_to_num(-1), torch.tensor([[1.0, 2.0], [3.0, -1.0]]))


@pytest.mark.parametrize("labels", [[1.0, None], np.array([1.0, np.nan]), torch.tensor([1.0, torch.nan])])
def test_labels_of_one_score_become_one_column(tiny_processor, labels):
    batch = tiny_processor(features={"video": [np.zeros((1, 16))] * 2}, labels=labels)
    assert batch.labels.nan_to_num(-1).tolist() == [[1.0], [-1.0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0], r"\[1\] for 2 samples"),
        ([[1.0], [1.0, 2.0]], r"\[1, 2\] for 2 samples"),
        ([1.0, float("inf")], "sample 1: label .*inf.* infinite"),
        ([1.0, "good"], "sample 1: label .*good.* is not a list of numbers"),
        (np.ones((2, 1, 1, 2)), "sample 0: label .* is not a list of numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tiny_processor, labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tiny_processor(features={"video": [np.zeros((1, 16))] * 2}, labels=labels)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_gets_the_added_ones_behind(
    tiny_config, tiny_tokenizer, tiny_features
):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens([f"<|word_{index}|>" for index in range(20)])  # 277 tokens, the model has 264 rows
    with pytest.raises(ValueError, match=r"call config.place_added_tokens\(277\)"):
        LimssrProcessor.from_config(tiny_config, tokenizer)
    tiny_config.place_added_tokens(len(tokenizer))
    processor = LimssrProcessor.from_config(tiny_config, tokenizer)
    assert processor.tokenizer.convert_tokens_to_ids("<|video_start|>") == 277
    LimssrForScoreRegression(tiny_config)(**processor(features=tiny_features))
