"""LIMSSR: scores a performance from the modalities that are present (arXiv 2605.00434)."""

import inspect
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_limssr import LimssrConfig
from .checkpoint_limssr import LANGUAGE_MODEL_PREFIX, LimssrCheckpointMixin
from .language_model_limssr import (
    HUB_ARGUMENTS,
    add_lora,
    confine_quantization,
    load_language_model,
    lookup_scale,
    quiet_loading,
    require_floating_point,
)
from .losses_limssr import consistency_loss, regression_loss, token_separation_loss
from .prefix_cache_limssr import SharedPrefix
from .projector_limssr import LimssrProjector
from .scoring_paths_limssr import LimssrCrossModalPath, LimssrReasoningPath
from .sequence_limssr import SequenceLayout


@dataclass
class LimssrModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`(batch, length, hidden)`): of the language model, after its final norm.
        fusion_hidden_state (`(batch, fusion tokens, hidden)`, *optional*): h_k, float32; not with `fusion="mean"`.
        modality_hidden_state (`(batch, modalities, hidden)`): h_m, the mean over each modality's span, float32.
        modality_mask (`(batch, modalities)` bool): m, whether the sample has the modality.
        hidden_states (`tuple` of `(batch, length, hidden)`, *optional*): with `output_hidden_states=True`.
        attentions (`tuple` of `(batch, heads, length, length)`, *optional*): with `output_attentions=True`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    fusion_hidden_state: torch.FloatTensor | None = None
    modality_hidden_state: torch.FloatTensor | None = None
    modality_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class LimssrScoreOutput(ModelOutput):
    """
    Args:
        loss (`()`, *optional*): weighted sum of the three terms; returned when `labels` are given.
        scores (`(batch, scores)`): predicted scores, in judges' units.
        reasoning_scores, cross_modal_scores (`(batch, scores)`, *optional*): scores of the two paths, in judges'
            units; `None` for a path that `aggregation` leaves out.
        path_disagreement (`(batch, scores)`, *optional*): |reasoning_scores - cross_modal_scores|, with both paths.
        regression_loss, consistency_loss, separation_loss (`()`, *optional*): the unweighted terms of the loss.
        fusion_hidden_state (`(batch, fusion tokens, hidden)`, *optional*): h_k.
        modality_hidden_state (`(batch, modalities, hidden)`): h_m.
        hidden_states (`tuple` of `(batch, length, hidden)`, *optional*): with `output_hidden_states=True`.
        attentions (`tuple` of `(batch, heads, length, length)`, *optional*): with `output_attentions=True`.
    """

    loss: torch.FloatTensor | None = None
    scores: torch.FloatTensor | None = None
    reasoning_scores: torch.FloatTensor | None = None
    cross_modal_scores: torch.FloatTensor | None = None
    path_disagreement: torch.FloatTensor | None = None
    regression_loss: torch.FloatTensor | None = None
    consistency_loss: torch.FloatTensor | None = None
    separation_loss: torch.FloatTensor | None = None
    fusion_hidden_state: torch.FloatTensor | None = None
    modality_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class LimssrPreTrainedModel(PreTrainedModel):
    config_class = LimssrConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Scores in half precision would come in steps of 0.4 % of their range: all but the language model stays in float32.
    _keep_in_fp32_modules_strict = (
        "projectors",
        "token_embeddings",
        "reasoning_path",
        "cross_modal_path",
        "reasoning_weight",
    )
    # A quantiser looks here for what it must leave as it is, by the beginnings of full names.
    _keep_in_fp32_modules = ("model.projectors", *_keep_in_fp32_modules_strict)

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model, which is what `config.json` records and a later load restores."""
        return self.get_input_embeddings().weight.dtype

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LimssrModel):
            init.normal_(
                module.token_embeddings, std=getattr(self.config.language_model_config, "initializer_range", 0.02)
            )
        elif isinstance(module, LimssrReasoningPath) and hasattr(module, "slot_weight"):
            init.zeros_(module.slot_weight)
        elif isinstance(module, LimssrCrossModalPath):
            init.constant_(module.missing_confidence, 0.6)
        elif isinstance(module, LimssrForScoreRegression) and hasattr(module, "reasoning_weight"):
            init.constant_(module.reasoning_weight, 0.7)


class LimssrModel(LimssrPreTrainedModel):
    """
    The language model over prompt, projected clips, placeholders and fusion tokens, without the scoring heads.

    The language model (`language_model`) has no vocabulary head and its own embedding table is frozen; the added tokens have
    a small trainable table of their own, `token_embeddings` `(3M + K, hidden)`. A modality of text has no projector:
    its words stand in `input_ids` and are embedded like those of the prompt.

    The words that all samples of a batch begin with run through the language model once, see [`SharedPrefix`], unless
    `shares_prefix` is set to `False`.
    """

    shares_prefix = True

    def __init__(self, config: LimssrConfig):
        super().__init__(config)
        self.shared_prefix = SharedPrefix()
        self.language_model = AutoModel.from_config(config.text_config)
        self.token_embeddings = nn.Parameter(torch.empty(len(config.trainable_token_ids), config.hidden_size))
        self.projectors = nn.ModuleDict(
            {
                name: LimssrProjector(feature_size, config.hidden_size, config.projector_dropout)
                for name, feature_size in config.feature_sizes.items()
            }
        )
        self.post_init()
        self.freeze_language_model()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """A full checkpoint loads as every transformers model does, an adapter with its language model and heads."""
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        config = kwargs.get("config")
        if config is None and pretrained_model_name_or_path is not None:
            config = cls.config_class.from_pretrained(pretrained_model_name_or_path, **hub_arguments)
        if pretrained_model_name_or_path is not None and config.checkpoint_form == "adapter":
            return LimssrForScoreRegression.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs).model
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, use_safetensors=True, **kwargs)

    def save_pretrained(self, *args, **kwargs) -> None:
        """As of every transformers model, but for a language model that was quantised as a part of the scoring model."""
        require_floating_point(self.language_model)
        super().save_pretrained(*args, **kwargs)

    def freeze_vocabulary(self) -> None:
        self.get_input_embeddings().requires_grad_(False)

    def freeze_language_model(self) -> None:
        """Freezes the vocabulary of the language model, and all the rest unless it is trained as a whole."""
        self.freeze_vocabulary()
        if self.config.language_model_training != "full":
            self.language_model.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)
        self.freeze_vocabulary()

    @torch.no_grad()
    def draw_token_embeddings(self) -> None:
        """Draws the trainable embeddings of the added tokens like the words of the (pretrained) vocabulary."""
        words = self.get_input_embeddings().weight.float() * lookup_scale(self.get_input_embeddings())
        noise = torch.randn(self.token_embeddings.shape, device=words.device)
        self.token_embeddings.copy_(words.mean(0) + words.std(0) * noise)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs,
    ) -> LimssrModelOutput:
        """
        Args:
            input_ids (`(batch, length)` int64): sequences as written by `LimssrProcessor`; they say what each position
                is.
            attention_mask (`(batch, length)`, *optional*): 1 for real positions, 0 for padding on the right.
            inputs_embeds (`(batch, length, hidden)`, *optional*): replaces the language model's embeddings of the prompt
                tokens. Clips and added tokens are still written over it, at the positions `input_ids` gives.
            {modality}_features (`(batch, clips, feature size)` float): the clips of a modality.
            {modality}_clip_mask (`(batch, clips)` bool): which of them are real; hidden or padded ones are never read.
            {modality}_projected (`(batch, clips, hidden)` float): in place of features, what the projector made of
                them before, for samples that are scored more than once.
            **kwargs: passed on to the language model (`output_hidden_states`, `output_attentions`, ...).

        Raises:
            ValueError: sequences and features do not fit together; the message names sample, modality and both
                numbers.
        """
        if input_ids is None:
            raise ValueError(
                "input_ids is needed beside inputs_embeds too: it says where clips and added tokens stand."
            )
        layout = SequenceLayout.from_input_ids(input_ids, self.config)
        has_own_words = inputs_embeds is None
        if has_own_words:
            inputs_embeds = self.embed_vocabulary(input_ids)  # (batch, length, hidden)
        inputs_embeds = self.write_added_tokens(inputs_embeds, input_ids)
        for index, name in enumerate(self.config.modalities):
            if name not in self.projectors:  # text: its words have their embeddings already
                continue
            parts = (kwargs.pop(f"{name}_{part}", None) for part in ("features", "clip_mask", "projected"))
            projected = self.project(name, layout.clips[:, index].sum(-1), *parts).to(inputs_embeds)  # (clips, hidden)
            inputs_embeds = inputs_embeds.masked_scatter(layout.clips[:, index, :, None], projected)
        if self.config.imputation == "zeros":
            inputs_embeds = inputs_embeds.masked_fill(layout.missing.any(1)[..., None], 0)
        self._refuse_unknown_arguments(kwargs)
        outputs = None
        if self.shares_prefix and has_own_words and not kwargs:
            outputs = self.shared_prefix.run(
                self.language_model, input_ids, inputs_embeds, attention_mask, self._added_ids(input_ids)
            )
        if outputs is None:
            kwargs |= {"use_cache": False, "return_dict": True}  # nothing is generated, so nothing is worth caching
            outputs = self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        hidden = outputs.last_hidden_state  # (batch, length, hidden)
        return LimssrModelOutput(
            last_hidden_state=hidden,
            fusion_hidden_state=_gather_positions(hidden, layout.fusion_positions),
            modality_hidden_state=_average_spans(hidden, layout.spans),
            modality_mask=layout.modality_mask,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def train(self, mode: bool = True) -> "LimssrModel":
        self.shared_prefix.forget()  # what is trained changes
        return super().train(mode)

    def _added_ids(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        return torch.tensor(list(self.config.added_token_ids.values()), device=input_ids.device)

    def _refuse_unknown_arguments(self, kwargs: dict) -> None:
        """Features of an unknown modality, or a misspelt `attention_mask`, must not be passed over in silence."""
        known = set(inspect.signature(self.language_model.forward).parameters) | set(
            TransformersKwargs.__annotations__
        )
        if unknown := sorted(kwargs.keys() - known):
            raise ValueError(
                f"{unknown[0]} is no argument of this model; its modalities are {list(self.config.modalities)}, for "
                "example `{modality}_features`, and the rest goes to the language model."
            )

    def embed_vocabulary(self, input_ids: torch.LongTensor) -> torch.FloatTensor:
        """The language model's own embeddings; added tokens get those of id 0, to be overwritten."""
        is_added = torch.isin(input_ids, self._added_ids(input_ids))
        return self.get_input_embeddings()(input_ids.masked_fill(is_added, 0))

    def write_added_tokens(self, inputs_embeds: torch.FloatTensor, input_ids: torch.LongTensor) -> torch.FloatTensor:
        """Writes the trainable embeddings of boundary, missing and fusion tokens over their positions."""
        row_ids = torch.tensor(self.config.trainable_token_ids, device=input_ids.device)
        is_row = input_ids[..., None] == row_ids  # (batch, length, rows)
        positions = is_row.any(-1)
        rows = is_row[positions].int().argmax(-1)  # (positions,)
        embeddings = self.token_embeddings[rows.to(self.token_embeddings.device)].to(inputs_embeds)
        return inputs_embeds.masked_scatter(positions[..., None], embeddings)

    def project(self, name, placeholders, features, clip_mask, projected) -> torch.FloatTensor:
        """
        The real clips of a modality as one list `(clips, hidden)`, checked against the placeholders `(batch,)`.

        A modality that nobody in the batch has gives an empty list, which still runs through its projector: all
        parameters then take part in every step, as training on several processes demands.
        """
        if projected is not None:
            return self.select_clips(name, placeholders, projected, clip_mask, self.config.hidden_size, "projected")
        size = self.config.modalities[name]
        return self.projectors[name](self.select_clips(name, placeholders, features, clip_mask, size, "features"))

    def select_clips(self, name, placeholders, features, clip_mask, size, kind) -> torch.FloatTensor:
        """Those of `(batch, clips, size)` that are real, as one list `(clips, size)`."""
        weight = self.projectors[name].linear_1.weight
        if features is None:
            features = weight.new_empty(len(placeholders), 0, size)
        if features.dim() != 3 or features.shape[-1] != size or len(features) != len(placeholders):
            raise ValueError(
                f"{name}_{kind} has shape {tuple(features.shape)}, expected ({len(placeholders)}, clips, {size})."
            )
        if clip_mask is None:
            clip_mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        given = clip_mask.sum(-1)  # (batch,)
        if (differing := given != placeholders.to(given.device)).any():
            sample = int(differing.nonzero()[0])
            raise ValueError(
                f"sample {sample}, modality {name!r}: input_ids have {placeholders[sample].item()} clip placeholders, "
                f"but {given[sample].item()} clips of features are given. Both must come from the same processor call."
            )
        return features[clip_mask.bool()].to(weight)  # (clips, size)


class LimssrForScoreRegression(LimssrCheckpointMixin, LimssrPreTrainedModel):
    """
    LIMSSR with its two scoring paths: s = w * s_main + (1 - w) * s_aux, in the judges' units s * range + minimum.

    Example:

    ```python
    >>> import torch
    >>> from limssr import LimssrForScoreRegression, LimssrProcessor
    >>> model = LimssrForScoreRegression.from_pretrained("user/limssr-finediving")
    >>> processor = LimssrProcessor.from_pretrained("user/limssr-finediving")
    >>> inputs = processor(features={"video": [torch.randn(40, 1024)], "audio": [None]})
    >>> model(**inputs).scores  # (1, scores)
    ```
    """

    code_module = __name__  # what the code bundle beside a checkpoint starts from
    # The loss is a mean over samples, so `Trainer` itself must divide it by the gradient accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: LimssrConfig):
        super().__init__(config)
        self.model = LimssrModel(config)
        if config.aggregation != "cross_modal":
            self.reasoning_path = LimssrReasoningPath(config)
        if config.aggregation != "reasoning":
            self.cross_modal_path = LimssrCrossModalPath(config)
        if config.aggregation == "dual":
            self.reasoning_weight = nn.Parameter(torch.full((1,), 0.7))
        self.post_init()

    @classmethod
    def from_language_model(
        cls,
        name_or_folder: str | Path,
        num_hidden_layers: int | None = None,
        gguf_file: str | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str = "auto",
        quantization_config=None,
        **config_fields,
    ) -> "LimssrForScoreRegression":
        """
        A new model around a pretrained language model. With `language_model_training="lora"` the language model gets LoRA (needs
        peft).

        Args:
            name_or_folder (`str` or `Path`): Hub repository, model folder, or a GGUF file, which is dequantised.
            num_hidden_layers (`int`, *optional*): keep only the first N layers of the language model.
            gguf_file (`str`, *optional*): name of the GGUF file in the folder or repository.
            revision (`str`, *optional*): branch, tag or commit of a Hub repository.
            dtype (`torch.dtype`, *optional*): of the language model; the checkpoint's own by default.
            quantization_config (`BitsAndBytesConfig`, *optional*): quantises the linear layers of the language model
                (needs bitsandbytes), which LoRA or frozen training leaves as they are (QLoRA).
            **config_fields: fields of [`LimssrConfig`]: `modalities`, `score_names`, `language_model_training`, ...; and
                `cache_dir`, `token`, `local_files_only` of the download.

        Raises:
            TypeError: an argument that is neither.
            ValueError: more layers asked for than there are, or no such layers to cut; or a quantised language model
                is to be trained as a whole.
        """
        hub_arguments = {name: config_fields.pop(name) for name in HUB_ARGUMENTS if name in config_fields}
        if unknown := sorted(config_fields.keys() - {field.name for field in fields(cls.config_class)}):
            raise TypeError(f"from_language_model has no argument `{unknown[0]}`, and LimssrConfig no such field.")
        if quantization_config is not None and config_fields.get("language_model_training") == "full":
            raise ValueError(
                "language_model_training='full' trains every weight of the language model, which quantised ones do not "
                "allow: give 'lora' or 'frozen', or leave quantization_config out."
            )
        language_model, source = load_language_model(
            name_or_folder, num_hidden_layers, gguf_file, revision, dtype=dtype, **hub_arguments
        )
        config = cls.config_class(text_config=language_model.config, language_model_source=source, **config_fields)
        language_model_weights = {
            LANGUAGE_MODEL_PREFIX + name: weight for name, weight in language_model.state_dict().items()
        }
        with quiet_loading():
            # Past the strict `from_pretrained` of this class: projectors, heads and added tokens start at random.
            model = PreTrainedModel.from_pretrained.__func__(
                cls,
                None,
                config=config,
                state_dict=language_model_weights,
                dtype=torch.float32,
                quantization_config=quantization_config,
            )
        for weight, own in zip(model.model.language_model.parameters(), language_model.parameters(), strict=True):
            if type(weight) is nn.Parameter:  # not what is quantised, which has a class of its own
                weight.data = weight.data.to(own.dtype)  # what is new stays in float32
        model.model.freeze_language_model()  # loading makes every weight trainable
        confine_quantization(model, model.model.language_model)
        model.model.draw_token_embeddings()
        if config.language_model_training == "lora":
            add_lora(model)
        return model

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.FloatTensor | None = None,
        **kwargs,
    ) -> LimssrScoreOutput:
        """
        Args:
            input_ids (`(batch, length)` int64): see [`LimssrModel.forward`], like the next.
            attention_mask (`(batch, length)`, *optional*): 1 for real positions.
            labels (`(batch, scores)` float, *optional*): judged scores, in the judges' units; NaN = not given.
            **kwargs: features, clip masks and arguments of the language model, see [`LimssrModel.forward`].

        Raises:
            ValueError: sequences, features or labels do not fit; a label outside the score range.
        """
        outputs = self.model(input_ids, attention_mask, return_dict=True, **kwargs)
        with torch.autocast(input_ids.device.type, enabled=False):
            score, reasoning, cross_modal = self.score(outputs)  # normalised to 0..1
            losses = {}
            if labels is not None:
                losses = self.losses(labels, score, reasoning, cross_modal, outputs.fusion_hidden_state)
            reasoning_scores, cross_modal_scores = map(self.in_judges_units, (reasoning, cross_modal))
            disagreement = None
            if self.config.aggregation == "dual":
                disagreement = (reasoning_scores - cross_modal_scores).abs()
        return LimssrScoreOutput(
            **losses,
            scores=self.in_judges_units(score),
            reasoning_scores=reasoning_scores,
            cross_modal_scores=cross_modal_scores,
            path_disagreement=disagreement,
            fusion_hidden_state=outputs.fusion_hidden_state,
            modality_hidden_state=outputs.modality_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def score(self, outputs: LimssrModelOutput) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Normalised scores `(batch, scores)`: s, s_main and s_aux; `None` for a path that is left out."""
        fusion_states, modality_states = outputs.fusion_hidden_state, outputs.modality_hidden_state
        reasoning = cross_modal = None
        if self.config.aggregation != "cross_modal":
            dtype = self.reasoning_path.norm.weight.dtype  # float32, unless the whole model was cast
            states = modality_states if fusion_states is None else fusion_states
            reasoning = self.reasoning_path(states.to(dtype), outputs.modality_mask.to(dtype)).float()
        if self.config.aggregation != "reasoning":
            dtype = self.cross_modal_path.missing_confidence.dtype
            cross_modal = self.cross_modal_path(modality_states.to(dtype), outputs.modality_mask.to(dtype)).float()
        if reasoning is None or cross_modal is None:
            return (cross_modal if reasoning is None else reasoning), reasoning, cross_modal
        return self.reasoning_weight * reasoning + (1 - self.reasoning_weight) * cross_modal, reasoning, cross_modal

    def losses(self, labels, score, reasoning, cross_modal, fusion_states=None) -> dict[str, torch.Tensor]:
        """
        The weighted loss and its unweighted terms, each `()`: MSE(s, y), MSE(s_main, s_aux) and token separation.

        Args:
            labels (`(batch, scores)`): judged scores in judges' units, NaN = not given.
            score (`(batch, scores)`): normalised blended score, see [`score`].
            reasoning (`(batch, scores)`): normalised score of the reasoning path.
            cross_modal (`(batch, scores)`): normalised score of the cross-modal path.
            fusion_states (`(batch, fusion tokens, hidden)`, *optional*): without them the separation term is 0.
        """
        config = self.config
        regression = regression_loss(score, self.normalise_labels(labels.to(score)))
        consistency = separation = score.new_zeros(())
        if config.aggregation == "dual":
            consistency = consistency_loss(reasoning, cross_modal)
        if fusion_states is not None:
            separation = token_separation_loss(fusion_states, config.separation_margin)
        return {
            "loss": config.regression_weight * regression
            + config.consistency_weight * consistency
            + config.separation_weight * separation,
            "regression_loss": regression,
            "consistency_loss": consistency,
            "separation_loss": separation,
        }

    def loss_of_scores(self, labels, scores, reasoning_scores, cross_modal_scores) -> torch.Tensor:
        """
        The loss `()` of scores that were predicted before, without the separation term, which belongs to batches.

        Args:
            labels (`(samples, scores)`): judged scores in judges' units, NaN = not given.
            scores (`(samples, scores)`): predictions in judges' units.
            reasoning_scores (`(samples, scores)`): those of the reasoning path.
            cross_modal_scores (`(samples, scores)`): those of the cross-modal path.
        """
        return self.losses(labels, *map(self.normalise, (scores, reasoning_scores, cross_modal_scores)))["loss"]

    def in_judges_units(self, score: torch.FloatTensor | None) -> torch.FloatTensor | None:
        """0..1 -> judges' units, `(batch, scores)`."""
        if score is None:
            return None
        minimum, span = self._score_bounds(score)
        return score * span + minimum

    def normalise(self, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Judges' units -> 0..1, `(batch, scores)`."""
        minimum, span = self._score_bounds(scores)
        return (scores - minimum) / span

    def normalise_labels(self, labels: torch.FloatTensor) -> torch.FloatTensor:
        """
        Judges' units -> 0..1, `(batch, scores)`.

        Raises:
            ValueError: another number of scores, or a label outside the score range.
        """
        if labels.shape[1:] != (self.config.num_scores,):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, expected (batch, {self.config.num_scores}): one column for "
                f"each of {self.config.score_names}."
            )
        normalised = self.normalise(labels)
        outside = (normalised < -1e-6) | (normalised > 1 + 1e-6)
        if outside.any():
            sample, column = outside.nonzero()[0].tolist()
            lowest, width = self.config.score_minimums[column], self.config.score_ranges[column]
            raise ValueError(
                f"label of sample {sample}, score {self.config.score_names[column]!r}, is "
                f"{labels[sample, column].item():g}; the configuration allows {lowest:g} to {lowest + width:g}: set "
                "`score_minimums` and `score_ranges` for your data."
            )
        return normalised

    def _score_bounds(self, scores: torch.Tensor) -> list[torch.Tensor]:
        """Minimum and range of each score, `(scores,)`, on the device of `scores`."""
        bounds = (self.config.score_minimums, self.config.score_ranges)
        return [torch.tensor([float(value) for value in values], device=scores.device) for values in bounds]


def _gather_positions(hidden: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor | None:
    """`(batch, length, hidden)` at `(batch, tokens)` -> `(batch, tokens, hidden)`, in float32."""
    if positions is None:
        return None
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]).to(hidden.device)).float()


def _average_spans(hidden: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """Mean of `(batch, length, hidden)` over each of the spans `(batch, modalities, length)`, in float32."""
    weights = spans.to(hidden.device).float()
    with torch.autocast(hidden.device.type, enabled=False):
        return (weights / weights.sum(-1, keepdim=True)) @ hidden.float()  # (batch, modalities, hidden)


__all__ = ["LimssrForScoreRegression", "LimssrModel", "LimssrPreTrainedModel", "LimssrScoreOutput"]
