"""Reading the common words once changes no number, in training and out of it."""

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
import torch.distributed.fsdp
from transformers import (
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen3Config,
)

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor

TOLERANCE = 1e-5
SIZES = {"video": 16, "audio": 12, "flow": 8}
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 264,
    "max_position_embeddings": 2048,
}
SPECIAL_IDS = {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
OPT = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
OPT |= {"vocab_size": 264, "dropout": 0.0}
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 264}
FAMILIES = {
    "qwen3": Qwen3Config(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=165),
    "gemma3": Gemma3TextConfig(**SHAPE, sliding_window=165),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=264, **SPECIAL_IDS, **NO_DROPOUT),
    "phi3": Phi3Config(**SHAPE, **SPECIAL_IDS),
    "opt": OPTConfig(**OPT, **SPECIAL_IDS),
    "falcon with alibi": FalconConfig(**FALCON, **SPECIAL_IDS, alibi=True),
}
UNSHARED = {
    "a window shorter than the prefix": MistralConfig(**SHAPE, sliding_window=40),
    "a rotation that depends on the length": Qwen3Config(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    ),
}


def build(text_config, **fields) -> LimssrForScoreRegression:
    torch.manual_seed(0)
    # Without dropout: one draw for all samples is another than one for each.
    fields = {"projector_dropout": 0.0, "head_dropout": 0.0, "lora_dropout": 0.0, **fields}
    return LimssrForScoreRegression(LimssrConfig(text_config=text_config, modalities=SIZES, **fields)).eval()


@pytest.fixture
def batch(tiny_processor, tiny_features):
    return tiny_processor(features=tiny_features, labels=[0.3, 0.5, 0.6])


@contextmanager
def positions_read(model):
    """Counts the positions (of all samples) that run through the language model."""
    counted = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: counted.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    yield counted
    hook.remove()


def plain(model, batch):
    model.model.shares_prefix = False
    try:
        return model.model(**{name: value for name, value in batch.items() if name != "labels"}), model(**batch)
    finally:
        model.model.shares_prefix = True


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_hidden_states_are_those_of_the_plain_path(family, batch):
    model = build(FAMILIES[family])
    expected_states, expected = plain(model, batch)
    samples, length = batch.input_ids.shape
    for first in (True, False):  # the second batch reads no prefix at all
        with positions_read(model) as counted:
            found = model(**batch)
        prefix = length - counted[-1] // samples
        assert prefix > 100  # most of the prompt: one token a letter
        assert counted == ([prefix] if first else []) + [samples * (length - prefix)]
        torch.testing.assert_close(found.scores, expected.scores, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(found.loss, expected.loss, atol=TOLERANCE, rtol=0)
    del batch["labels"]
    states = model.model(**batch).last_hidden_state
    torch.testing.assert_close(states, expected_states.last_hidden_state, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_through_the_prefix(family, batch):
    model = build(FAMILIES[family], language_model_training="full").train()
    plain(model, batch)[1].loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with positions_read(model) as counted:
        model(**batch).loss.backward()
    assert len(counted) == 2
    assert counted[0] > 100
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, expected[name], atol=TOLERANCE, rtol=1e-4, msg=name)
    assert statistics.keys() == dict(model.named_buffers()).keys()  # nothing of it goes into a checkpoint
    with positions_read(model) as again:
        model(**batch)
    assert again == counted  # in training nothing is kept


@contextmanager
def masks_read(model):
    """Collects the shapes of the masks that the language model gets."""
    shapes = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(getattr(kwargs.get("attention_mask"), "shape", None)),
        with_kwargs=True,
    )
    yield shapes
    hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen3", "llama", "phi3"])
def test_behind_a_prefix_there_is_one_mask_for_all_layers(family, batch, tiny_processor):
    model = build(FAMILIES[family])
    samples, length = batch.input_ids.shape
    assert not batch.attention_mask.all()
    with masks_read(model) as shapes:
        model(**batch)
    prefix = length - shapes[1][2]
    assert shapes == [None, (samples, 1, length - prefix, length)]
    unpadded = tiny_processor(features={"video": [torch.randn(4, 16), torch.randn(4, 16)]})
    with masks_read(model) as shapes:
        found = model(**unpadded).score
    assert shapes[-1][:2] == (1, 1)  # and for all samples
    torch.testing.assert_close(found, plain(model, unpadded)[1].score, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt2", "opt", "falcon with alibi"])
def test_windows_and_positions_that_come_of_the_mask_get_it_as_it_is(family, batch):
    with masks_read(model := build(FAMILIES[family])) as shapes:
        model(**batch)
    assert shapes == [None, batch.attention_mask.shape]


@torch.no_grad()
@pytest.mark.parametrize("reason", UNSHARED)
def test_a_language_model_that_does_not_allow_it_takes_the_plain_path(reason, batch):
    model = build(UNSHARED[reason])
    with positions_read(model) as counted:
        found = model(**batch).score
    assert counted == [batch.input_ids.numel()]
    assert torch.equal(found, plain(model, batch)[1].score)


def test_gradient_checkpointing_switches_it_off(batch):
    model = build(FAMILIES["qwen3"], language_model_training="full").train()
    model(**batch).loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()
    model.activation_checkpointing_enable()
    with positions_read(model) as counted:
        model(**batch).loss.backward()
    assert counted == [batch.input_ids.numel()]
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, expected[name], atol=TOLERANCE, rtol=1e-4, msg=name)
    model.eval()
    with torch.no_grad(), positions_read(model) as counted:
        model(**batch)
    assert len(counted) == 2  # checkpointing is a matter of training


def test_sharded_weights_are_read_in_one_pass_a_step(batch, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = build(FAMILIES["qwen3"], language_model_training="full").train()
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for layer in model.model.language_model.layers:
            torch.distributed.fsdp.fully_shard(layer, mesh=mesh)
        with positions_read(model) as counted:
            model(**batch).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    assert counted == [batch.input_ids.numel()]


@torch.no_grad()
@pytest.mark.parametrize("wanted", ["output_hidden_states", "output_attentions"])
def test_states_of_all_positions_and_layers_come_from_the_plain_path(wanted, batch):
    model = build(FAMILIES["qwen3"])
    model.set_attn_implementation("eager")
    outputs = model(**batch, **{wanted: True})
    length = batch.input_ids.shape[1]
    states = outputs.hidden_states or outputs.attentions
    assert all(state.shape[-2] == length for state in states)
    torch.testing.assert_close(outputs.score, model(**batch).score, atol=TOLERANCE, rtol=0)


def write_to_a_weight(model):
    model.model.language_model.layers[0].mlp.down_proj.weight.mul_(1.5)


def load_other_weights(model):
    torch.manual_seed(1)
    weights = model.state_dict()
    model.load_state_dict({name: value + 0.1 * torch.randn_like(value.float()) for name, value in weights.items()})


def cast(model):
    model.to(torch.float64).to(torch.float32)
    model.model.language_model.to(torch.bfloat16)


def train_a_step(model):
    model.train()
    for weight in model.model.language_model.parameters():
        weight.data.add_(0.01)  # in place through `.data`, which no version counts
    model.eval()


@torch.no_grad()
@pytest.mark.parametrize("change", [write_to_a_weight, load_other_weights, cast, train_a_step])
def test_nothing_stale_is_used_after_the_weights_change(change, batch):
    model = build(FAMILIES["qwen3"])
    before = model(**batch).fusion_hidden_state
    change(model)
    found = model(**batch).fusion_hidden_state
    assert not torch.allclose(found, before, atol=1e-3)
    atol = TOLERANCE if model.dtype == torch.float32 else 0.1
    torch.testing.assert_close(found, plain(model, batch)[1].fusion_hidden_state, atol=atol, rtol=0)


@torch.no_grad()
def test_what_was_kept_in_half_precision_is_not_used_in_full(batch):
    model = build(FAMILIES["qwen3"])
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch)
    torch.testing.assert_close(model(**batch).score, plain(model, batch)[1].score, atol=1e-6, rtol=0)


def test_what_was_kept_without_gradients_does_not_cut_them(batch):
    model = build(FAMILIES["qwen3"], language_model_training="full")
    with torch.inference_mode():
        model(**batch)
    plain(model, batch)[1].loss.backward()
    weight = model.model.language_model.layers[0].self_attn.k_proj.weight
    expected = weight.grad.clone()
    model.zero_grad()
    model(**batch).loss.backward()
    torch.testing.assert_close(weight.grad, expected, atol=TOLERANCE, rtol=1e-4)


def test_copies_and_pickles_start_with_nothing_kept(batch):
    model = build(FAMILIES["qwen3"])
    with torch.inference_mode():
        expected = model(**batch).score
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301 (our own)
        with torch.no_grad(), positions_read(other) as counted:
            torch.testing.assert_close(other(**batch).score, expected, atol=TOLERANCE, rtol=0)
        assert len(counted) == 2


@torch.no_grad()
def test_what_is_shared_ends_at_the_first_added_token(tiny_tokenizer):
    model = build(FAMILIES["qwen3"])
    processor = LimssrProcessor.from_config(model.config, tiny_tokenizer)
    torch.manual_seed(2)
    same_mask = {"video": list(torch.randn(4, 6, 16)), "audio": list(torch.randn(4, 6, 12))}
    batch = processor(features=same_mask)
    prompt = len(processor.encode_prompt((True, True, False)))
    with positions_read(model) as counted:
        found = model(**batch).score
    assert counted == [prompt, 4 * (batch.input_ids.shape[1] - prompt)]
    torch.testing.assert_close(found, plain(model, batch)[1].score, atol=TOLERANCE, rtol=0)
    assert found.std() > 0  # the samples differ, though all their ids are the same


@torch.no_grad()
def test_a_prefix_that_is_a_small_part_of_the_sequence_is_not_worth_a_mask(tiny_tokenizer):
    model = build(FAMILIES["llama"])
    processor = LimssrProcessor.from_config(model.config, tiny_tokenizer, max_clips=2000)
    lengths = {}
    for clips in (20, 1000):
        batch = processor(features={name: [torch.ones(clips, size)] * 2 for name, size in SIZES.items()})
        with positions_read(model) as counted:
            model(**batch)
        lengths[clips] = sum(counted) < batch.input_ids.numel()
    assert lengths == {20: True, 1000: False}


@torch.no_grad()
def test_no_more_prefixes_are_kept_than_a_few(tiny_tokenizer):
    model = build(FAMILIES["llama"])
    processor = LimssrProcessor.from_config(model.config, tiny_tokenizer)
    for number in range(12):
        processor.prompt["template"] = f"{number} " * 20 + "{available} {missing}"
        processor._prompt_ids.clear()
        model(**processor(features={"video": [torch.ones(2, 16)] * 2}))
    assert len(model.model.shared_prefix._kept) == 8
