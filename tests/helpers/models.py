"""A tiny tokenizer, and steps that several tests take with a model."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from limssr.processing.recipes_limssr import Recipe

ENCODER_WORDS = "[PAD] [UNK] [CLS] [SEP] a and dive half into nice pike she so somersault that the tuck twist water"
LINEAR_LAYERS = 2 * 7  # of the tiny language model: layers, and q, k, v, o, gate, up, down in each


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with 257 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>")


def gradients(model, batch) -> dict[str, torch.Tensor]:
    """Gradients of the loss, for every parameter that has one."""
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def train(model, batch, steps: int) -> list[float]:
    """Losses of some steps of AdamW, without dropout."""
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    return losses


def score_one_by_one(model, processor, features) -> torch.Tensor:
    """Scores `(samples, scores)`, each sample in a batch of its own."""
    count = len(next(iter(features.values())))
    alone = [{name: [entries[index]] for name, entries in features.items()} for index in range(count)]
    return torch.cat([model(**processor(features=sample)).scores for sample in alone])


def quantised_layers(model) -> dict[str, nn.Module]:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)}


def make_calibration(score_names: list[str], masks: dict[str, float], widest: float = 1.0) -> dict:
    """A table: errors uniform from 0 to the number of each mask, training scores from 0 to `widest`."""
    quantiles = {"mean": widest / 2, "quantiles": [widest * rank / 100 for rank in range(101)]}
    entries = {
        mask: {
            name: {"samples": 999, "residuals": [width * rank / 100 for rank in range(1, 100)]} for name in score_names
        }
        for mask, width in masks.items()
    }
    return {"split": "validation", "masks": entries, "training_scores": dict.fromkeys(score_names, quantiles)}


def install_package(site_packages: Path, name: str, model_folder: Path) -> None:
    """Write what an installed Python package of that name leaves, with the files of a model folder in it."""
    package = site_packages / name.replace("-", "_")
    metadata = site_packages / f"{package.name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (package / "model").parent.mkdir()
    model_folder.rename(package / "model")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    files = [file.relative_to(site_packages) for file in package.rglob("*") if file.is_file()]
    (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def write_text_encoder(folder: Path) -> Path:
    """Write a random BERT (hidden size 8, 32 positions, one token a word) into a folder."""
    vocabulary = {word: index for index, word in enumerate(ENCODER_WORDS.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def recipe_with_text(encoder: Path) -> dict:
    """The recipe `classic`, and `commentary` by a text encoder of `write_text_encoder`, two tokens a clip."""
    commentary = {"encoder": "hub_text", "feature_size": 8, "clip": 2, "stride": 2}
    recipe = Recipe.load("classic").to_dict()
    recipe["modalities"]["commentary"] = {**commentary, "options": {"repository": str(encoder)}}
    return {**recipe, "name": "with_text"}
