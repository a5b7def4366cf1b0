"""The published checkpoint with its inputs and everything the published implementation computed from them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

MASKS = ["111", "110", "101", "011", "100", "010", "001"]
SCORES = {"scores": "score", "reasoning_scores": "score_main", "cross_modal_scores": "score_aux"}  # ours -> published


@dataclass(frozen=True)
class Golden:
    """
    Attributes:
        folder: holds `original_checkpoint.pkl`, the language model `llm` and the wording `prompt.json`.
        meta: modality order, prompt ids, settings.
        inputs: clips of each modality and labels.
        expected: `{mask}.{what}` -> tensor.
    """

    folder: Path
    meta: dict
    inputs: dict[str, torch.Tensor]
    expected: dict[str, torch.Tensor]

    @classmethod
    def read(cls, folder: Path) -> "Golden":
        return cls(
            folder,
            json.loads((folder / "meta.json").read_text()),
            load_file(folder / "inputs.safetensors"),
            load_file(folder / "expected.safetensors"),
        )

    def features(self, *masks: str) -> dict[str, list]:
        """Input of the processor: the samples under each of the masks, one after the other."""
        return {
            name: [clips if mask[index] == "1" else None for mask in masks for clips in self.inputs[name]]
            for index, name in enumerate(self.meta["modality_order"])
        }

    def under_all_masks(self, what: str) -> torch.Tensor:
        return torch.cat([self.expected[f"{mask}.{what}"] for mask in MASKS])
