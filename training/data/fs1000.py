"""FS1000: figure skating programmes of eight types with seven scores."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from .file_dataset import PublishedDataset
from .sources.labels import LabelError, Labels


@dataclass
class Fs1000(PublishedDataset):
    """FS1000 from its published label files and features.

        FS1000/
            train_fs1000_new.txt            1,000 lines: id TES PCS SS TR PE CO IN factor
            val_fs1000_new.txt              247 lines, the test split
            output_feature_fs1000_new/      <id>.npy [clips, views, 768], TimeSformer: `video`, averaged over views
            ast_feature_fs1000_new/         <id>.npy [clips, 768], AST: `audio`
            i3d_avg_clip8_5s_fs1000/        <id>.npy [clips, 1024], I3D: `flow`

    Scores, by default all seven: `tes` (0 to 130), `pcs` (divided by the programme's factor, 0 to 60) and its
    components `ss`, `tr`, `pe`, `co`, `in` (0 to 10). Further columns: the other scores and `factor`.
    """

    train_labels: str = "train_fs1000_new.txt"
    test_labels: str = "val_fs1000_new.txt"
    max_clips: int = 95

    name: ClassVar = "fs1000"
    title: ClassVar = "FS1000"
    score_ranges: ClassVar = {"tes": 130, "pcs": 60, "ss": 10, "tr": 10, "pe": 10, "co": 10, "in": 10}
    label_columns: ClassVar = (*score_ranges, "factor")
    official_counts: ClassVar = {"train": 1000, "test": 247}
    feature_sizes: ClassVar = {"video": 768, "audio": 768, "flow": 1024}
    feature_places: ClassVar = {
        "video": "output_feature_fs1000_new",
        "audio": "ast_feature_fs1000_new",
        "flow": "i3d_avg_clip8_5s_fs1000",
    }
    average_views: ClassVar = True

    def transform_labels(self, labels: Labels) -> Labels:
        factor = labels.columns["factor"]
        if not (factor > 0).all():
            row = int(np.flatnonzero(factor <= 0)[0])
            raise LabelError(f"{labels.where(row)}: factor is {factor[row]:g}, expected more than 0")
        return replace(labels, columns={**labels.columns, "pcs": labels.columns["pcs"] / factor})
