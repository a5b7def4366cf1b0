"""A modality of text: the words' own tokens between the boundary tokens, whatever the words are."""

import copy
import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor

MODALITIES = {"commentary": "text", "dive": 8}


@pytest.fixture
def text_config(tiny_text_config) -> LimssrConfig:
    return LimssrConfig(text_config=tiny_text_config, modalities=dict(MODALITIES), score_ranges=[100.0])


@pytest.fixture
def text_processor(text_config, tiny_tokenizer) -> LimssrProcessor:
    return LimssrProcessor.from_config(text_config, tiny_tokenizer, max_clips=12, max_text_tokens=30)


@pytest.fixture
def language_model(text_config) -> LimssrForScoreRegression:
    torch.manual_seed(0)
    return LimssrForScoreRegression(text_config).eval()


def block(processor, ids, modality="commentary") -> list[int]:
    """The ids between the boundary tokens of a modality."""
    ids = ids.tolist()
    return ids[
        ids.index(processor._ids[f"<|{modality}_start|>"]) + 1 : ids.index(processor._ids[f"<|{modality}_end|>"])
    ]


def test_a_block_holds_the_tokens_of_the_words(text_processor, tiny_tokenizer):
    batch = text_processor(features={"commentary": ["The entry is clean", None], "dive": [torch.ones(2, 8)] * 2})
    assert (
        set(batch)
        == {"input_ids", "attention_mask", "dive_features", "dive_clip_mask"}
        == set(text_processor.model_input_names)
    )
    assert block(text_processor, batch.input_ids[0]) == tiny_tokenizer("The entry is clean").input_ids
    assert block(text_processor, batch.input_ids[1]) == [text_processor._ids["<|missing_commentary|>"]] * 2


def test_placeholders_match_the_tokens_of_a_text(text_processor):
    batch = text_processor(features={"commentary": ["twelve signs"], "dive": [None]})
    assert block(text_processor, batch.input_ids[0], "dive") == [text_processor._ids["<|missing_dive|>"]] * 12


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["<|commentary_end|>", "<|dive|>", "<|fusion_1|>", "<|endoftext|>", "<think>", "a", " "]),
            st.text(max_size=4),
        ),
        max_size=5,
    ).map("".join)
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_special_strings_in_a_text_stay_plain_text(text_config, tiny_tokenizer, text):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<think>"])  # added, but not special, as in Qwen3
    processor = LimssrProcessor.from_config(text_config, tokenizer, max_text_tokens=1000)
    if not text.strip():
        with pytest.raises(ValueError, match=r"sample 0.*'commentary'.*empty"):
            processor(features={"commentary": [text]})
        return
    written = block(processor, processor(features={"commentary": [text]}).input_ids[0])
    assert all(token_id < 256 for token_id in written)  # the 256 bytes come first, every added token after them
    assert bytes(_byte(tiny_tokenizer, token_id) for token_id in written) == text.encode()


def _byte(tokenizer, token_id: int) -> int:
    """The byte of a token of the byte-level tokenizer."""
    byte_of = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    return byte_of[tokenizer.convert_ids_to_tokens(token_id)]


def test_a_long_text_is_cut_with_a_warning_that_counts(text_processor, caplog):
    texts = ["x" * 10, "y" * 31, "z" * 50]
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").propagate = True
        batch = text_processor(features={"commentary": texts})
    assert [len(block(text_processor, ids)) for ids in batch.input_ids] == [10, 30, 30]
    assert "1 of 2 texts so far had more than max_text_tokens=30 tokens and were cut, by 1 tokens" in caplog.text
    assert "2 of 3 texts so far had more than max_text_tokens=30 tokens and were cut, by 21 tokens" in caplog.text


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("  \n", ValueError, r"sample 'd7', modality 'commentary': the text is empty.*None"),
        (["a", "list"], TypeError, r"sample 'd7', modality 'commentary': expected a text, got list"),
        (3.5, TypeError, r"expected a text, got float '3.5'"),
    ],
)
def test_what_is_no_text_is_refused_by_sample_and_modality(text_processor, content, error, message):
    with pytest.raises(error, match=message):
        text_processor(features={"commentary": [content]}, sample_ids=["d7"])


def test_a_text_for_a_modality_of_features_is_refused(text_processor):
    with pytest.raises(TypeError, match=r"'dive': expected an array of numbers \[clips, 8\]"):
        text_processor(features={"commentary": ["good"], "dive": ["a text"]})


def test_the_processor_comes_back_as_it_was_saved(text_processor, tmp_path):
    features = {"commentary": ["a <|dive|> of note", None], "dive": [None, torch.ones(3, 8)]}
    text_processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.max_text_tokens == 30
    assert torch.equal(loaded(features=features).input_ids, text_processor(features=features).input_ids)


@torch.no_grad()
def test_scores_depend_on_the_words_and_on_nothing_else_in_the_batch(language_model, text_processor):
    features = {
        "commentary": ["a clean entry", None, "over on the entry, and wide"],
        "dive": [torch.ones(1, 8), torch.zeros(4, 8), None],
    }
    together = language_model(**text_processor(features=features)).scores
    for index in range(3):
        alone = {name: [entries[index]] for name, entries in features.items()}
        score = language_model(**text_processor(features=alone)).scores[0]
        torch.testing.assert_close(score, together[index], atol=1e-3, rtol=0)  # judges' units, of 100
    other = features | {"commentary": ["a poor entry", None, "over on the entry, and wide"]}
    changed = language_model(**text_processor(features=other)).scores
    assert (changed[0] - together[0]).abs() > 1e-4
    torch.testing.assert_close(changed[1:], together[1:], atol=1e-4, rtol=0)


def test_words_have_the_embeddings_of_the_language_model_and_no_projector(language_model, text_processor):
    assert list(language_model.model.projectors) == ["dive"]
    batch = text_processor(features={"commentary": ["clean"], "dive": [torch.ones(1, 8)]})
    embedded = []
    handle = language_model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: embedded.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    language_model(**batch)
    handle.remove()
    start = batch.input_ids[0].tolist().index(text_processor._ids["<|commentary_start|>"]) + 1
    ids = batch.input_ids[0, start : start + 5]
    expected = language_model.get_input_embeddings()(ids)
    torch.testing.assert_close(embedded[0][0, start : start + 5], expected)


def test_both_checkpoint_forms_keep_a_text_modality(tiny_language_model, tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    model = LimssrForScoreRegression.from_language_model(tiny_language_model, modalities=dict(MODALITIES)).eval()
    processor = LimssrProcessor.from_config(model.config, tiny_tokenizer)
    inputs = processor(features={"commentary": ["a clean entry", None], "dive": [None, torch.ones(1, 8)]})
    for form in ("full", "adapter"):
        model.save_pretrained(tmp_path / form, form=form)
        loaded = LimssrForScoreRegression.from_pretrained(tmp_path / form, language_model=tiny_language_model)
        assert list(loaded.config.modalities.items()) == list(MODALITIES.items())
        with torch.no_grad():
            torch.testing.assert_close(loaded(**inputs).scores, model(**inputs).scores, atol=1e-6, rtol=0)
