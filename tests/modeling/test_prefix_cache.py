"""Encoding the shared prompt prefix once changes no number, and nothing of it outlives a call or `keep()`."""

import copy
import pickle
from contextlib import contextmanager

import pytest
import torch
import torch.distributed.fsdp
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import (
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen3Config,
)

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from tests.helpers.feature_rows import SIZES

TOLERANCE = 1e-5
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
    "bidirectional attention": Gemma3TextConfig(**SHAPE, use_bidirectional_attention=True),
    "a state-space model": MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=264, state_size=4),
}


def build(text_config, **fields) -> LimssrForScoreRegression:
    torch.manual_seed(0)
    # Without dropout: one draw for the prefix of all samples differs from one draw for each.
    fields = {"projector_dropout": 0.0, "head_dropout": 0.0, "lora_dropout": 0.0, **fields}
    return LimssrForScoreRegression(LimssrConfig(text_config=text_config, modalities=SIZES, **fields)).eval()


@pytest.fixture
def qwen() -> LimssrForScoreRegression:
    return build(FAMILIES["qwen3"])


@pytest.fixture
def batch(tiny_processor, tiny_features):
    return tiny_processor(features=tiny_features, labels=[0.3, 0.5, 0.6])


@contextmanager
def recorded_calls(model):
    """Collects (positions of all samples, shape of the mask) of each call of the language model."""
    calls = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(
            (kwargs["inputs_embeds"].shape[:2].numel(), getattr(kwargs.get("attention_mask"), "shape", None))
        ),
        with_kwargs=True,
    )
    yield calls
    hook.remove()


def count_positions(model, batch) -> list[int]:
    """Number of positions that each call of the language model encodes."""
    with recorded_calls(model) as calls:
        model(**batch)
    return [positions for positions, _ in calls]


def plain(model, batch):
    """Outputs without sharing."""
    model.model.shares_prefix = False
    try:
        return model(**batch)
    finally:
        model.model.shares_prefix = True


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_hidden_states_are_those_of_the_plain_path(family, batch):
    model = build(FAMILIES[family])
    expected = plain(model, batch)
    samples, length = batch.input_ids.shape
    counted = count_positions(model, batch)
    prefix = length - counted[-1] // samples
    assert prefix > 100  # most of the prompt: one token a letter
    assert counted == [prefix, samples * (length - prefix)]
    with model.model.prefix_cache.keep():
        for found in (model(**batch), model(**batch)):
            for name in ("scores", "loss", "fusion_hidden_state", "modality_hidden_state"):
                torch.testing.assert_close(found[name], expected[name], atol=TOLERANCE, rtol=0)
        assert count_positions(model, batch) == counted[1:]
        assert count_positions(model.train(), batch) == counted  # in training nothing is kept
        model.eval()
    assert count_positions(model, batch) == counted
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    states = model.model(**inputs).last_hidden_state
    model.model.shares_prefix = False
    torch.testing.assert_close(states, model.model(**inputs).last_hidden_state, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_through_the_prefix(family, batch):
    model = build(FAMILIES[family], language_model_training="full").train()
    expected = gradients(model, plain(model, batch).loss)
    buffers = set(dict(model.named_buffers()))
    with model.model.prefix_cache.keep():
        assert len(count_positions(model, batch)) == len(count_positions(model, batch)) == 2
        found = gradients(model, model(**batch).loss)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=TOLERANCE, rtol=1e-4, msg=name)
    assert set(dict(model.named_buffers())) == buffers  # nothing of it goes into a checkpoint


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen3", "llama", "phi3"])
def test_after_a_prefix_all_layers_share_one_mask(family, batch, tiny_processor):
    model = build(FAMILIES[family])
    samples, length = batch.input_ids.shape
    assert not batch.attention_mask.all()
    with recorded_calls(model) as calls:
        model(**batch)
    prefix = calls[0][0]
    assert [mask for _, mask in calls] == [None, (samples, 1, length - prefix, length)]
    unpadded = tiny_processor(features={"video": [torch.randn(4, 16), torch.randn(4, 16)]})
    with recorded_calls(model) as calls:
        found = model(**unpadded).scores
    assert calls[-1][1][:2] == (1, 1)  # and so do all samples
    torch.testing.assert_close(found, plain(model, unpadded).scores, atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt2", "opt", "falcon with alibi"])
def test_windows_and_positions_read_off_the_mask_get_it_as_it_is(family, batch):
    with recorded_calls(model := build(FAMILIES[family])) as calls:
        model(**batch)
    assert [mask for _, mask in calls] == [None, batch.attention_mask.shape]


@torch.no_grad()
@pytest.mark.parametrize("reason", UNSHARED)
def test_a_language_model_that_does_not_allow_it_takes_the_plain_path(reason, batch):
    model = build(UNSHARED[reason])
    assert count_positions(model, batch) == [batch.input_ids.numel()]
    assert torch.equal(model(**batch).scores, plain(model, batch).scores)


@torch.no_grad()
def test_states_of_all_layers_come_from_the_plain_path(qwen, batch):
    qwen.set_attn_implementation("eager")
    expected = qwen(**batch).scores
    for wanted in ("output_hidden_states", "output_attentions"):
        outputs = [qwen(**batch, **{wanted: True})]
        setattr(qwen.model.language_model.config, wanted, True)
        outputs.append(qwen(**batch))
        setattr(qwen.model.language_model.config, wanted, False)
        for output in outputs:
            torch.testing.assert_close(output.scores, expected, atol=TOLERANCE, rtol=0)
        states = outputs[0].hidden_states or outputs[0].attentions
        assert all(state.shape[-2] == batch.input_ids.shape[1] for state in states)


def test_gradient_checkpointing_switches_it_off(batch):
    model = build(FAMILIES["qwen3"], language_model_training="full").train()
    expected = gradients(model, model(**batch).loss)
    model.activation_checkpointing_enable()
    assert count_positions(model, batch) == [batch.input_ids.numel()]
    for name, gradient in gradients(model, model(**batch).loss).items():
        torch.testing.assert_close(gradient, expected[name], atol=TOLERANCE, rtol=1e-4, msg=name)
    with torch.no_grad():
        assert len(count_positions(model.eval(), batch)) == 2  # checkpointing is a matter of training


def test_sharded_weights_are_read_in_one_pass(batch, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = build(FAMILIES["qwen3"], language_model_training="full").train()
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for layer in model.model.language_model.layers:
            torch.distributed.fsdp.fully_shard(layer, mesh=mesh)
        assert count_positions(model, batch) == [batch.input_ids.numel()]
        assert count_positions(model.eval(), batch) == [batch.input_ids.numel()]
    finally:
        torch.distributed.destroy_process_group()


def write_to_a_weight(model):
    model.model.language_model.layers[0].mlp.down_proj.weight.mul_(1.5)


def load_other_weights(model):
    torch.manual_seed(1)
    weights = model.state_dict()
    model.load_state_dict({name: value + 0.1 * torch.randn_like(value.float()) for name, value in weights.items()})


def cast(model):
    model.model.language_model.to(torch.bfloat16)


def write_past_autograd(model):
    for weight in model.model.language_model.parameters():
        weight.data.add_(0.01)


def hook_a_layer(model):
    model.model.language_model.layers[0].register_forward_hook(lambda module, args, output: output + 1)


def switch_adapters_off(model):
    model.disable_adapters()


def switch_to_another_adapter(model):
    model.set_adapter("second")


def switch_to_another_adapter_for_inference(model):
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter("second", inference_mode=True)


CHANGES = [write_to_a_weight, load_other_weights, cast, write_past_autograd, hook_a_layer]
CHANGES += [switch_adapters_off, switch_to_another_adapter, switch_to_another_adapter_for_inference]
ADAPTER = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_scores_are_those_of_the_new_state(change, qwen, batch):
    if "adapter" in change.__name__:
        qwen.add_adapter(ADAPTER, "second")
        qwen.add_adapter(ADAPTER, "first")
        qwen.set_adapter("first")
        qwen.eval()
    with qwen.model.prefix_cache.keep():
        before = qwen(**batch).fusion_hidden_state
    with pytest.raises(TypeError), qwen.model.prefix_cache.keep():
        qwen(**batch, labels=1)  # what was kept goes after an error too
    change(qwen)
    found = qwen(**batch).fusion_hidden_state
    assert not torch.allclose(found, before, atol=1e-3)
    atol = TOLERANCE if qwen.dtype == torch.float32 else 0.1
    torch.testing.assert_close(found, plain(qwen, batch).fusion_hidden_state, atol=atol, rtol=0)


@torch.no_grad()
def test_a_peft_model_scores_with_its_adapter_and_without(qwen, batch):
    expected = qwen(**batch).scores
    peft_model = get_peft_model(qwen, ADAPTER).eval()
    adapted = peft_model(**batch).scores
    assert not torch.allclose(adapted, expected, atol=1e-4)
    with peft_model.disable_adapter():
        torch.testing.assert_close(peft_model(**batch).scores, expected, atol=TOLERANCE, rtol=0)
    assert torch.equal(peft_model(**batch).scores, adapted)


def test_what_inference_kept_in_half_precision_neither_rounds_nor_cuts_gradients(batch):
    model = build(FAMILIES["qwen3"], language_model_training="full")
    expected = gradients(model, plain(model, batch).loss)
    with model.model.prefix_cache.keep():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            model(**batch)
        found = gradients(model, model(**batch).loss)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=TOLERANCE, rtol=1e-4, msg=name)


@torch.no_grad()
def test_copies_and_pickles_keep_nothing(qwen, batch):
    with qwen.model.prefix_cache.keep():
        expected = qwen(**batch).scores
        copies = copy.deepcopy(qwen), pickle.loads(pickle.dumps(qwen))  # noqa: S301 (our own)
        assert len(count_positions(qwen, batch)) == 1
    for other in copies:
        assert len(count_positions(other, batch)) == len(count_positions(other, batch)) == 2
        torch.testing.assert_close(other(**batch).scores, expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_the_last_of_several_keepers_drops_what_is_kept(qwen, batch):
    first, second = qwen.model.prefix_cache.keep(), qwen.model.prefix_cache.keep()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # like two generators over one model
    assert [len(count_positions(qwen, batch)) for _ in range(2)] == [2, 1]
    second.__exit__(None, None, None)
    assert [len(count_positions(qwen, batch)) for _ in range(2)] == [2, 2]


@torch.no_grad()
def test_the_prefix_ends_at_the_first_added_token(qwen, tiny_tokenizer):
    processor = LimssrProcessor.from_config(qwen.config, tiny_tokenizer)
    torch.manual_seed(2)
    same_mask = {"video": list(torch.randn(4, 6, 16)), "audio": list(torch.randn(4, 6, 12))}
    batch = processor(features=same_mask)
    prompt = len(processor.encode_prompt((True, True, False)))
    assert count_positions(qwen, batch) == [prompt, 4 * (batch.input_ids.shape[1] - prompt)]
    found = qwen(**batch).scores
    torch.testing.assert_close(found, plain(qwen, batch).scores, atol=TOLERANCE, rtol=0)
    assert found.std() > 0  # the samples differ, though all their ids are the same


@torch.no_grad()
@pytest.mark.parametrize(("clips", "samples", "calls"), [(20, 2, 2), (1000, 2, 1), (20, 1, 1)])
def test_a_small_part_of_the_sequence_or_a_single_sample_is_not_worth_a_second_pass(
    clips, samples, calls, tiny_tokenizer
):
    model = build(FAMILIES["llama"])
    processor = LimssrProcessor.from_config(model.config, tiny_tokenizer, max_clips=2000)
    batch = processor(features={name: [torch.ones(clips, size)] * samples for name, size in SIZES.items()})
    assert len(count_positions(model, batch)) == calls


@torch.no_grad()
def test_only_a_few_prefixes_are_kept(qwen, tiny_tokenizer):
    template = "{available} {missing}"
    batches = []
    for number in range(9):
        prompt = {"template": f"{number} " * 40 + template}
        processor = LimssrProcessor.from_config(qwen.config, tiny_tokenizer, prompt=prompt)
        batches.append(processor(features={"video": [torch.ones(2, 16)] * 2}))
    with qwen.model.prefix_cache.keep():
        assert [len(count_positions(qwen, batch)) for batch in (*batches, *batches[1:])] == [2] * 9 + [1] * 8
        assert len(count_positions(qwen, batches[0])) == 2
