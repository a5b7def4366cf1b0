"""LIMSSR: scores a performance from whatever modalities are available (arXiv 2605.00434)."""

import inspect

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from ..configuration.configuration_limssr import LimssrConfig
from .adapters_limssr import is_lora_factor
from .checkpoint_limssr import LimssrCheckpointMixin, LimssrSavingMixin
from .intervals_limssr import find_intervals
from .language_model_limssr import (
    HUB_ARGUMENTS,
    check_length,
    find_weight_files,
    lookup_scale,
    read_weight_names,
    refuse_added_tokens,
)
from .linear_shortcut_limssr import LimssrLinearShortcut, RunningStandardisation
from .losses_limssr import (
    check_loss_weights,
    consistency_loss,
    is_outside,
    pairwise_loss,
    regression_loss,
    token_separation_loss,
)
from .outputs_limssr import LimssrModelOutput, LimssrScoreOutput
from .prefix_cache_limssr import PrefixCache
from .projector_limssr import LimssrProjector
from .scoring_paths_limssr import LimssrCrossModalPath, LimssrReasoningPath
from .sequence_limssr import SequenceLayout, average_spans, gather_positions, refuse


class LimssrPreTrainedModel(LimssrSavingMixin, PreTrainedModel):
    config_class = LimssrConfig
    code_module = __name__  # what the code bundle beside a checkpoint starts from
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the language model, which `config.json` records and a later load restores."""
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
        elif isinstance(module, LimssrLinearShortcut):
            init.zeros_(module.weight)
        elif isinstance(module, RunningStandardisation):
            init.zeros_(module.count)
            init.zeros_(module.mean)
            init.ones_(module.variance)


class LimssrModel(LimssrPreTrainedModel):
    """
    The language model over prompt, projected clips, placeholders and fusion tokens, without the scoring heads.

    The language model (`language_model`) has no vocabulary head, and its embedding table is frozen. The added tokens
    have a small trainable table of their own, `token_embeddings` `(3M + K, hidden)`. A modality of text has no
    projector: its words stand in `input_ids` and are embedded like those of the prompt.

    The prompt prefix that all samples of a batch share is encoded once, see [`PrefixCache`], unless `shares_prefix` is
    set to `False`.
    """

    shares_prefix = True
    # In half precision scores would come in steps of 0.4 % of their range: only the language model may have it.
    _keep_in_fp32_modules_strict = ("projectors", "token_embeddings")
    # A quantiser looks here for the linear layers that it must leave alone, by the beginnings of full names.
    _keep_in_fp32_modules = ("projectors",)

    def __init__(self, config: LimssrConfig):
        super().__init__(config)
        self.prefix_cache = PrefixCache()
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
        self.guard_vocabulary()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a full checkpoint as transformers does, LoRA that is apart through [`LimssrForScoreRegression`]."""
        location, config = pretrained_model_name_or_path, kwargs.get("config")
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        files = [] if location is None else find_weight_files(location, kwargs.get("variant"), **hub_arguments)
        if names := read_weight_names(files):
            if not isinstance(config, LimssrConfig):
                config = cls.config_class.from_pretrained(location if config is None else config, **hub_arguments)
            if config.checkpoint_form == "adapter" or any(map(is_lora_factor, names)):
                return LimssrForScoreRegression.from_pretrained(location, *model_args, **kwargs).model
        return super().from_pretrained(location, *model_args, **{**kwargs, "use_safetensors": True})

    def freeze_vocabulary(self) -> None:
        self.get_input_embeddings().requires_grad_(False)

    def guard_vocabulary(self) -> None:
        """Refuse the added tokens in the vocabulary, by name."""
        self.get_input_embeddings().register_forward_pre_hook(refuse_added_tokens)

    def freeze_language_model(self) -> None:
        """Freeze the language model; only its vocabulary with `language_model_training="full"`."""
        self.freeze_vocabulary()
        if self.config.language_model_training != "full":
            self.language_model.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)
        self.freeze_vocabulary()
        self.guard_vocabulary()

    @torch.no_grad()
    def draw_token_embeddings(self) -> None:
        """Draw the trainable embeddings from the distribution of the (pretrained) vocabulary."""
        words = self.get_input_embeddings().weight.float() * lookup_scale(self.get_input_embeddings())
        noise = torch.randn(self.token_embeddings.shape, device=words.device)
        self.token_embeddings.copy_(words.mean(0) + words.std(0) * noise)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LimssrModelOutput:
        """
        Args:
            input_ids (`(batch, length)` int64): sequences written by `LimssrProcessor`; they say what stands where.
            attention_mask (`(batch, length)`, *optional*): 1 for real positions, 0 for padding on the right.
            inputs_embeds (`(batch, length, hidden)`, *optional*): embeddings of the words, in place of the language
                model's own. Clips and added tokens are still written over it, at the positions `input_ids` gives.
            {modality}_features (`(batch, clips, feature size)` float): clips of a modality.
            {modality}_clip_mask (`(batch, clips)` bool): which of them are real; the others are never read.
            {modality}_projected (`(batch, clips, hidden)` float): output of the projector, in place of features, for
                samples that are scored more than once.
            **kwargs: arguments of the language model (`output_hidden_states`, `output_attentions`, ...).

        Raises:
            ValueError: sequences and features do not fit (the message names sample, modality and both numbers), or
                sequences are longer than the language model's table of positions.
        """
        if input_ids is None:
            raise ValueError(
                "input_ids is needed beside inputs_embeds too: it says where clips and added tokens stand."
            )
        check_length(self.language_model, input_ids.shape[1])
        layout = SequenceLayout.from_input_ids(input_ids, self.config)
        added_ids = torch.tensor(list(self.config.added_token_ids.values()), device=input_ids.device)
        is_added = torch.isin(input_ids, added_ids)  # (batch, length)
        word_ids = None
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(is_added, 0))  # (batch, length, hidden)
            word_ids = input_ids.masked_fill(is_added, -1) if self.shares_prefix else None
        inputs_embeds = self.write_added_tokens(inputs_embeds, input_ids)
        for index, name in enumerate(self.config.modalities):
            if name not in self.projectors:  # text: its words are embedded already
                continue
            parts = (kwargs.pop(f"{name}_{part}", None) for part in ("features", "clip_mask", "projected"))
            is_clip = layout.clips[:, index]  # (batch, length)
            projected = self.project(name, is_clip.sum(-1), *parts).to(inputs_embeds)  # (clips, hidden)
            inputs_embeds = inputs_embeds.masked_scatter(is_clip[..., None], projected)
        if self.config.imputation == "zeros":
            inputs_embeds = inputs_embeds.masked_fill(layout.missing.any(1)[..., None], 0)
        self._refuse_unknown_arguments(kwargs)
        outputs = self.prefix_cache(self.language_model, inputs_embeds, attention_mask, word_ids, **kwargs)
        hidden = outputs.last_hidden_state  # (batch, length, hidden)
        if hidden.shape[1] != input_ids.shape[1]:
            raise ValueError(
                f"the language model returned {hidden.shape[1]} states for {input_ids.shape[1]} tokens; one that "
                "prepends tokens of its own, as PEFT's prompt tuning does, is not supported: use LoRA."
            )
        return LimssrModelOutput(
            last_hidden_state=hidden,
            fusion_hidden_state=gather_positions(hidden, layout.fusion_positions),
            modality_hidden_state=average_spans(hidden, layout.spans),
            modality_mask=layout.modality_mask,
            hidden_states=outputs.hidden_states,
            attentions=outputs.get("attentions"),  # a state-space model has none
        )

    def _refuse_unknown_arguments(self, kwargs: dict) -> None:
        """Refuse the features of an unknown modality, or a misspelt argument."""
        known = set(inspect.signature(self.language_model.forward).parameters) | set(
            TransformersKwargs.__annotations__
        )
        if unknown := sorted(kwargs.keys() - known):
            raise ValueError(
                f"{unknown[0]} is no argument of this model; its modalities are {list(self.config.modalities)}, for "
                "example `{modality}_features`, and the rest goes to the language model."
            )

    def write_added_tokens(self, inputs_embeds: torch.FloatTensor, input_ids: torch.LongTensor) -> torch.FloatTensor:
        """Write the trainable embeddings of boundary, missing and fusion tokens over their positions."""
        row_ids = torch.tensor(self.config.trainable_token_ids, device=input_ids.device)
        is_row = input_ids[..., None] == row_ids  # (batch, length, rows)
        rows = is_row.int().argmax(-1).to(self.token_embeddings.device)  # (batch, length)
        embeddings = F.embedding(rows, self.token_embeddings).to(inputs_embeds)  # (batch, length, hidden)
        return torch.where(is_row.any(-1, keepdim=True), embeddings, inputs_embeds)

    def project(self, name, placeholders, features, clip_mask, projected) -> torch.FloatTensor:
        """
        Clips of a modality as one list `(clips, hidden)`, the real ones first, checked against the placeholders.

        A modality that no sample of the batch has still runs through its projector, as an empty list: training on
        several processes demands that all parameters take part in every step.
        """
        batch = placeholders.shape[0]  # `len` would fix it in an exported graph
        kind, size, clips = "features", self.config.modalities[name], features
        if projected is not None:
            kind, size, clips = "projected", self.config.hidden_size, projected
        elif features is None:
            clips = torch.zeros(batch, 0, size)
        if clips.dim() != 3 or clips.shape[0] != batch or clips.shape[2] != size:
            raise ValueError(f"{name}_{kind} has shape {tuple(clips.shape)}, expected ({batch}, clips, {size}).")
        clips = clips.to(placeholders.device)
        is_real = torch.ones(clips.shape[:2], dtype=torch.bool) if clip_mask is None else clip_mask.bool()
        is_real = is_real.to(placeholders.device)  # (batch, clips)
        given = is_real.sum(-1)  # (batch,)
        advice = "Both must come from the same processor call."
        if features is None and projected is None:
            advice = (
                f"There are no {name}_features at all; transformers' Trainer drops them unless it is given "
                "TrainingArguments(remove_unused_columns=False)."
            )
        refuse(
            given != placeholders,
            lambda sample: (
                f"sample {sample}, modality {name!r}: input_ids have {placeholders[sample].item()} clip placeholders, "
                f"but {given[sample].item()} clips of features are given. {advice}"
            ),
        )
        clips, is_real = clips.flatten(0, 1), is_real.flatten()
        if projected is None:
            clips = self.projectors[name](clips.masked_fill(~is_real[:, None], 0), is_real)  # (clips, hidden)
        return clips.index_select(0, is_real.logical_not().byte().argsort(stable=True))


class LimssrForScoreRegression(LimssrCheckpointMixin, LimssrPreTrainedModel):
    """
    LIMSSR with its two scoring paths: s = w * s_main + (1 - w) * s_aux, in judges' units s * range + minimum.

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

    # The loss is a mean over samples, so `Trainer` itself must divide it by the gradient accumulation steps.
    accepts_loss_kwargs = False
    # As in LimssrModel, whose lists join these.
    _keep_in_fp32_modules_strict = ("reasoning_path", "cross_modal_path", "reasoning_weight")
    _keep_in_fp32_modules = ("model.projectors", "reasoning_path", "cross_modal_path")

    def __init__(self, config: LimssrConfig):
        super().__init__(config)
        self.model = LimssrModel(config)
        if config.aggregation != "cross_modal":
            self.reasoning_path = LimssrReasoningPath(config)
        if config.aggregation != "reasoning":
            self.cross_modal_path = LimssrCrossModalPath(config)
        if config.aggregation == "dual":
            self.reasoning_weight = nn.Parameter(torch.full((1,), 0.7))
        if config.linear_shortcut:
            self.linear_shortcut = LimssrLinearShortcut(config)
            self._keep_in_fp32_modules_strict = {*self._keep_in_fp32_modules_strict, "linear_shortcut"}
        self.post_init()

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
        loss_weights: torch.FloatTensor | None = None,
        level: float | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> LimssrScoreOutput:
        """
        Args:
            input_ids (`(batch, length)` int64): sequences written by `LimssrProcessor`.
            attention_mask (`(batch, length)`, *optional*): 1 for real positions, 0 for padding on the right.
            labels (`(batch, scores)` float, *optional*): judges' scores, in judges' units; NaN = not given.
            loss_weights (`(batch, scores)` float, *optional*): factor of each label's squared error in the regression
                loss, 0 or more; 1 by default.
            level (`float`, *optional*): probability of the interval, from 0.5 to 0.99; 0.9 by default.
            **kwargs: features, clip masks and arguments of the language model, see [`LimssrModel.forward`].

        Raises:
            ValueError: sequences, features, labels, their weights or the level do not fit; a label outside the range.
        """
        outputs = self.model(input_ids, attention_mask, return_dict=True, **kwargs)
        with torch.autocast(input_ids.device.type, enabled=False):
            shortcut = 0.0
            if self.config.linear_shortcut:
                shortcut = self.linear_shortcut(kwargs, outputs.modality_mask)  # (batch, scores)
            score, reasoning, cross_modal = self.score(outputs, shortcut)  # normalised to 0..1
            losses = {}
            if labels is not None:
                paths = score, reasoning, cross_modal
                losses = self.losses(labels, *paths, outputs.fusion_hidden_state, loss_weights)
            reasoning_scores, cross_modal_scores = map(self.in_judges_units, (reasoning, cross_modal))
            disagreement = None
            if self.config.aggregation == "dual":
                disagreement = (reasoning_scores - cross_modal_scores).abs()
            scores = self.in_judges_units(score)
            interval, sufficient = find_intervals(self.config, scores, outputs.modality_mask, level)
        return LimssrScoreOutput(
            **losses,
            scores=scores,
            reasoning_scores=reasoning_scores,
            cross_modal_scores=cross_modal_scores,
            path_disagreement=disagreement,
            interval=interval,
            sufficient_evidence=sufficient,
            fusion_hidden_state=outputs.fusion_hidden_state,
            modality_hidden_state=outputs.modality_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def score(
        self, outputs: LimssrModelOutput, shortcut: torch.Tensor | float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """
        Normalised scores s, s_main and s_aux, each `(batch, scores)`; `None` for a path that is left out.

        Args:
            outputs: output of the model without heads.
            shortcut (`(batch, scores)`): logits that join those of both paths, see [`LimssrLinearShortcut`].
        """
        fusion_states, modality_states = outputs.fusion_hidden_state, outputs.modality_hidden_state
        reasoning = cross_modal = None
        if self.config.aggregation != "cross_modal":
            dtype = self.reasoning_path.norm.weight.dtype  # float32, unless the whole model was cast
            states = modality_states if fusion_states is None else fusion_states
            reasoning = self.reasoning_path(states.to(dtype), outputs.modality_mask.to(dtype), shortcut).float()
        if self.config.aggregation != "reasoning":
            dtype = self.cross_modal_path.missing_confidence.dtype
            mask = outputs.modality_mask.to(dtype)
            cross_modal = self.cross_modal_path(modality_states.to(dtype), mask, shortcut).float()
        if reasoning is None or cross_modal is None:
            return (cross_modal if reasoning is None else reasoning), reasoning, cross_modal
        weight = self.reasoning_weight.to(reasoning.device)
        return weight * reasoning + (1 - weight) * cross_modal, reasoning, cross_modal

    def losses(
        self, labels, score, reasoning, cross_modal, fusion_states=None, loss_weights=None
    ) -> dict[str, torch.Tensor]:
        """
        Weighted loss and its unweighted terms, each `()`: MSE(s, y), MSE(s_main, s_aux), token separation and, with a
        `pairwise_weight`, the ranking of pairs.

        Args:
            labels (`(batch, scores)`): judges' scores in judges' units, NaN = not given.
            score (`(batch, scores)`): normalised blended score.
            reasoning (`(batch, scores)`): normalised score of the reasoning path.
            cross_modal (`(batch, scores)`): normalised score of the cross-modal path.
            fusion_states (`(batch, fusion tokens, hidden)`, *optional*): h_k; without them the separation term is 0.
            loss_weights (`(batch, scores)`, *optional*): factors of the squared errors.
        """
        config = self.config
        if loss_weights is not None:
            loss_weights = loss_weights.to(score)
            check_loss_weights(loss_weights, labels, config.score_names)
        target = self.normalise_labels(labels.to(score.device)).to(score.dtype)
        losses = self._losses_of_samples(target, score, reasoning, cross_modal, loss_weights)
        losses["separation_loss"] = score.new_zeros(())
        if fusion_states is not None:
            losses["separation_loss"] = token_separation_loss(fusion_states, config.separation_margin)
        if config.pairwise_weight:
            losses["pairwise_loss"] = pairwise_loss(score, target)
        return {"loss": self._weigh(losses), **losses}

    def loss_of_scores(self, labels, scores, reasoning_scores, cross_modal_scores) -> torch.Tensor:
        """
        Loss `()` of earlier predictions, without separation and pairs, which are defined on batches.

        Args:
            labels (`(samples, scores)`): judges' scores in judges' units, NaN = not given.
            scores (`(samples, scores)`): predicted scores in judges' units.
            reasoning_scores (`(samples, scores)`): scores of the reasoning path, in judges' units.
            cross_modal_scores (`(samples, scores)`): scores of the cross-modal path, in judges' units.
        """
        normalised = map(self.normalise, (scores, reasoning_scores, cross_modal_scores))
        return self._weigh(self._losses_of_samples(self.normalise_labels(labels).to(scores.dtype), *normalised))

    def _losses_of_samples(self, target, score, reasoning, cross_modal, weights=None) -> dict[str, torch.Tensor]:
        """The terms that are means over samples, of normalised scores."""
        consistency = score.new_zeros(())
        if self.config.aggregation == "dual":
            consistency = consistency_loss(reasoning, cross_modal)
        return {"regression_loss": regression_loss(score, target, weights), "consistency_loss": consistency}

    def _weigh(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(
            getattr(self.config, f"{name.removesuffix('_loss')}_weight") * value for name, value in losses.items()
        )

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
        lowest, width = self._score_bounds(labels)

        def explain(sample: int, column: int) -> str:
            return (
                f"label of sample {sample}, score {self.config.score_names[column]!r}, is "
                f"{labels[sample, column].item():g}; the configuration allows {lowest[column].item():g} to "
                f"{(lowest + width)[column].item():g}: set `score_minimums` and `score_ranges` for your data."
            )

        refuse(is_outside(labels, lowest, lowest + width), explain)
        return self.normalise(labels)

    def _score_bounds(self, scores: torch.Tensor) -> list[torch.Tensor]:
        """Minimum and range of each score, `(scores,)`, on the device of `scores`."""
        bounds = (self.config.score_minimums, self.config.score_ranges)
        return [torch.tensor([float(value) for value in values], device=scores.device) for values in bounds]


__all__ = ["LimssrForScoreRegression", "LimssrModel", "LimssrPreTrainedModel"]
