"""The tables of the LIMSSR paper as lists of runs: which settings of `train.py` make which line.

A variant changes a configuration, any configuration, by one idea. What exactly the paper changed is not always said;
where a variant is a reading of it, a comment says so.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """
    Attributes:
        name: of its folder and its line.
        settings: of `train.py`, in place of the configuration's.
        published: table and line of `published_results.ablation_row` to lay beside it; None where there is none.
        impossible: why this package cannot run it; empty where it can.
        random_language_model: whether the language model is replaced by one of the same architecture with random weights.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    published: tuple[str, str] | None = None
    impossible: str = ""
    random_language_model: bool = False


@dataclass(frozen=True)
class Table:
    """
    Attributes:
        title: what it shows.
        number: which of the paper's tables it is.
        variants: its lines.
        only_complete: whether it shows the column with all modalities alone.
    """

    title: str
    number: str
    variants: tuple[Variant, ...]
    only_complete: bool = False

    @property
    def is_ablation(self) -> bool:
        return len(self.variants) > 1


AS_CONFIGURED = Variant("as_configured")

# Parts of the default wording of `Prompt`, in its order: our words for the paper's task, fusion guide and condition.
_TASK = "Judge how well this performance is executed. "
_INFER = "Infer what is missing from what is available"
_FUSION_GUIDE = "gather all that matters for the score at the end"
_CONDITION = " Available: {available}. Missing: {missing}."
WHOLE_PROMPT = f"{_TASK}{_INFER}, and {_FUSION_GUIDE}.{_CONDITION}"
_WITHOUT_CONDITION = f"{_TASK}{_INFER}, and {_FUSION_GUIDE}."
_WITHOUT_TASK = f"{_FUSION_GUIDE.capitalize()}.{_CONDITION}"
_WITHOUT_FUSION_GUIDE = f"{_TASK}{_INFER}.{_CONDITION}"

_ZEROS = {"imputation": "zeros"}
_MEAN = {"fusion": "mean"}
_REASONING = {"aggregation": "reasoning"}


def _prompt(name: str, template: str, line: str) -> Variant:
    return Variant(name, {"prompt": {"template": template}}, ("prompt", line))


def _lora(rank: int, alpha: int) -> Variant:
    settings = {"lora_rank": rank, "lora_alpha": alpha}
    return Variant(f"lora_rank_{rank}_alpha_{alpha}", settings, ("lora_rank", f"{rank}/{alpha}"))


def _backbone(language_model: str, line: str) -> Variant:
    return Variant(language_model.split("/")[1].lower(), {"language_model": language_model}, ("backbone", line))


TABLES = {
    "main": Table(
        "Spearman and MSE for every combination of missing modalities", "Tables 1 and 11 to 13", (AS_CONFIGURED,)
    ),
    "complete": Table("Spearman and MSE with all modalities", "Table 2", (AS_CONFIGURED,), only_complete=True),
    # The paper adds one module after the other: LLM, PCMI (missing clips), LMRF (fusion tokens), MDA (two paths).
    "components": Table(
        "One component after the other",
        "One of tables 3 to 9",
        (
            Variant(
                "no_language_model",
                published=("components", "baseline, no language model"),
                impossible="there is no model without a language model here",
            ),
            Variant("language_model_alone", _ZEROS | _MEAN | _REASONING, ("components", "+ LLM")),
            Variant("with_placeholders", _MEAN | _REASONING, ("components", "+ PCMI")),
            Variant("reasoning_path", _REASONING, ("components", "+ LMRF")),
            AS_CONFIGURED,
        ),
    ),
    "imputation": Table(
        "Placeholders of missing clips",
        "One of tables 3 to 9",
        (AS_CONFIGURED, Variant("zeros_for_missing_clips", _ZEROS, ("removals", "w/o PCMI"))),
    ),
    "fusion": Table(
        "What the reasoning path reads",
        "One of tables 3 to 9",
        (AS_CONFIGURED, Variant("mean_for_fusion_tokens", _MEAN, ("removals", "w/o LMRF"))),
    ),
    # L_con is taken for the consistency, L_reg for the separation ("regularisation") of the three terms: without the
    # regression itself nothing would be learnt.
    "losses": Table(
        "Terms of the loss",
        "One of tables 3 to 9",
        (
            AS_CONFIGURED,
            Variant("without_consistency", {"consistency_weight": 0}, ("removals", "w/o L_con")),
            Variant("without_separation", {"separation_weight": 0}, ("removals", "w/o L_reg")),
        ),
    ),
    "fusion_tokens": Table(
        "K, the number of fusion tokens (4 as published)",
        "One of tables 3 to 9",
        (
            AS_CONFIGURED,
            *(
                Variant(f"{k}_fusion_tokens", {"num_fusion_tokens": k}, ("fusion_tokens", str(k)))
                for k in (2, 3, 5, 6)
            ),
        ),
    ),
    "paths": Table(
        "Scoring paths",
        "One of tables 3 to 9",
        (
            AS_CONFIGURED,
            Variant("reasoning_path", _REASONING, ("paths", "path 1")),
            Variant("cross_modal_path", {"aggregation": "cross_modal"}, ("paths", "path 2")),
        ),
    ),
    "lora_rank": Table(
        "Rank and alpha of LoRA (16 and 32 as published)",
        "One of tables 3 to 9",
        (AS_CONFIGURED, *(_lora(*pair) for pair in ((8, 16), (8, 32), (16, 16), (16, 64), (32, 32), (32, 64)))),
    ),
    "prompt": Table(
        "Parts of the prompt",
        "One of tables 3 to 9",
        (
            AS_CONFIGURED,
            _prompt("prompt_without_condition", _WITHOUT_CONDITION, "w/o condition"),
            _prompt("prompt_without_task", _WITHOUT_TASK, "w/o task"),
            _prompt("prompt_without_fusion_guide", _WITHOUT_FUSION_GUIDE, "w/o fusion guide"),
            Variant(
                "without_special_tokens",
                published=("prompt", "w/o special tokens"),
                impossible="the model finds the span of a modality by its boundary tokens",
            ),
            Variant("without_prompt", {"use_prompt": False}, ("prompt", "w/o all")),
        ),
    ),
    # The last two are not the paper's: does the pretrained language model do anything?
    "backbone": Table(
        "Language models (Qwen3-0.6B as published)",
        "One of tables 3 to 9",
        (
            AS_CONFIGURED,
            _backbone("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B"),
            _backbone("openbmb/MiniCPM-1B-sft-bf16", "MiniCPM-1B"),
            _backbone("meta-llama/Llama-3.2-1B", "Llama3.2-1B"),
            _backbone("google/gemma-3-1b-pt", "Gemma3-1B"),
            Variant("frozen", {"language_model_training": "frozen"}),
            Variant("random", random_language_model=True),
        ),
    ),
}
