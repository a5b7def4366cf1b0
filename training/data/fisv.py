"""Fis-V: figure skating short programmes with their technical and component scores."""

from dataclasses import dataclass
from typing import ClassVar

from .file_dataset import PublishedDataset


@dataclass
class FisV(PublishedDataset):
    """Fis-V from its published label files and feature tables.

        Fis-V/
            train.txt                           400 lines: id TES PCS [deduction], with or without a header
            test.txt                            100 lines
            Fis-feature/FISV_rgb_VST.npy        pickled table id -> [clips, 1024], Video Swin: `video`
            Fis-feature/FISV_audio_AST.npy      id -> [clips, 768], AST: `audio`
            Fis-feature/FISV_flow_I3D.npy       id -> [clips, 1024], I3D: `flow`

    Scores, by default both: `tes` (0 to 45) and `pcs` (0 to 40). Further column: the other score.
    """

    max_clips: int = 124

    name: ClassVar = "fisv"
    title: ClassVar = "Fis-V"
    score_ranges: ClassVar = {"tes": 45, "pcs": 40}
    label_columns: ClassVar = tuple(score_ranges)
    official_counts: ClassVar = {"train": 400, "test": 100}
    feature_sizes: ClassVar = {"video": 1024, "audio": 768, "flow": 1024}
    feature_places: ClassVar = {
        "video": "Fis-feature/FISV_rgb_VST.npy",
        "audio": "Fis-feature/FISV_audio_AST.npy",
        "flow": "Fis-feature/FISV_flow_I3D.npy",
    }
