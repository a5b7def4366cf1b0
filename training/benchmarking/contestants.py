"""Who is compared: this model, the bare language model on the same tokens, and LIMSSR written the naive way."""

import torch
from torch import nn
from torch.nn import functional

from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression

LEARNING_RATE = 1e-9  # steps are taken, but everybody keeps computing the same


class Limssr:
    """This model; with `shares_prefix` it reads the words that all samples begin with once."""

    def __init__(self, model: LimssrForScoreRegression, shares_prefix: bool):
        self.model, self.shares_prefix = model, shares_prefix
        self.optimizer = make_optimizer(model)

    def infer(self, batch: dict[str, torch.Tensor]) -> None:
        self.model.model.shares_prefix = self.shares_prefix
        with torch.inference_mode():
            self.model(**batch)

    def train(self, batch: dict[str, torch.Tensor]) -> None:
        self.model.model.shares_prefix = self.shares_prefix
        self.model(**batch).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class BareLanguageModel:
    """The language model with its LoRA, without its vocabulary head: forward, and backward from a mean of squares."""

    def __init__(self, model: LimssrForScoreRegression):
        self.model = model.model.language_model
        self.vocabulary_size = self.model.config.vocab_size

    def infer(self, batch: dict[str, torch.Tensor]) -> None:
        with torch.inference_mode():
            self._read(batch)

    def train(self, batch: dict[str, torch.Tensor]) -> None:
        self._read(batch).square().mean().backward()
        self.model.zero_grad()

    def _read(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        # The added tokens have no row in its table; any word costs as much.
        words = batch["input_ids"] % self.vocabulary_size
        return self.model(input_ids=words, attention_mask=batch["attention_mask"], use_cache=False).last_hidden_state


class NaiveLimssr:
    """
    The same scores as one writes them first: the language model keeps its vocabulary head and returns logits and the
    states of every layer, its whole table is trained, every sample reads the whole prompt.
    """

    def __init__(self, model: LimssrForScoreRegression):
        self.model = model
        self.head = nn.Linear(1, 1, bias=False)
        table = model.get_input_embeddings()
        table.requires_grad_(True)
        self.head.weight = table.weight  # tied, as usual
        self.optimizer = make_optimizer(model)

    def infer(self, batch: dict[str, torch.Tensor]) -> None:
        with torch.inference_mode():
            self._score(batch)

    def train(self, batch: dict[str, torch.Tensor]) -> None:
        outputs, _ = self._score(batch)
        outputs.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _score(self, batch: dict[str, torch.Tensor]):
        self.model.model.shares_prefix = False
        outputs = self.model(**batch, output_hidden_states=True)
        return outputs, functional.linear(outputs.hidden_states[-1], self.head.weight)  # (batch, length, vocabulary)


def make_contestant(name: str, model: LimssrForScoreRegression) -> Limssr | BareLanguageModel | NaiveLimssr:
    """The contestant `bare`, `limssr`, `shared` or `naive`; the last one changes what of the model is trained."""
    if name == "bare":
        return BareLanguageModel(model)
    return NaiveLimssr(model) if name == "naive" else Limssr(model, shares_prefix=name == "shared")


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over what is trained."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
