"""Whether explanations find what really went wrong: simulated dives, of which every fault and its effect are known.

For each dive with a worst fault that cost 5 points or more, the clips of a modality are put in the order of their
contributions, the most lowering first. A hit is a dive where one of the first two shows the fault. By chance, two of n
clips, of which k show it, hit with 1 - C(n - k, 2) / C(n, 2). A model that explains nothing need not hit as often: its
clips may be those that are everywhere the same, as the first ones of a dive. What it hits is the share of hits where
the first clips of each dive are held against the faults of all other dives ("others").

python -m limssr.training.benchmarking.planted_faults MODEL FOLDER [--data_options key=value ...]

The check can fail: a model that learnt from shuffled scores must find what it finds in the faults of other dives.

limssr train training/configs/simulated_dives.yaml --output_dir runs/shuffled \\
    --dataset limssr.training.benchmarking.planted_faults:ShuffledDives
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm

from ..data import load
from ..data.aqa_data import AqaData
from ..data.dives.judges import draw_marks, panel_score
from ..data.dives.performance import FAULTS
from ..data.masks import derive_seed
from ..data.simulated_dives import SimulatedDives
from ..data.sources.files import read_times
from ..explanation.explanation import explain
from ..prediction.predictor import load_members
from ..utils.launching import exit_on_error, run_script, script_parser
from ..utils.markdown import markdown_table
from ..utils.settings import read_pairs

SEEN_IN = {"video": set(FAULTS), "audio": {"board_noise", "splash"}}  # see `SimulatedDives`
LEAST_EFFECT = 5.0  # points
PANELS = 2000  # of judges, for the effect of a fault
TOP = 2
LEAST_SHARE = 0.5  # of a clip that lies in the time of a fault, for the clip to show it


@dataclass(frozen=True)
class Finding:
    """One dive and one modality.

    Attributes:
        modality: name.
        fault: the worst fault.
        span: seconds in which it begins and ends.
        times: (clips, 2) seconds.
        first: method -> (`TOP`,) numbers of the most lowering clips.
        agreement: rank correlation of the two methods over the clips; NaN where one is constant.
    """

    modality: str
    fault: str
    span: tuple[float, float]
    times: np.ndarray
    first: dict[str, np.ndarray]
    agreement: float

    def is_hit(self, method: str, span: tuple[float, float] | None = None) -> bool:
        """Whether one of the first clips shows the fault, or one of another time."""
        return bool(clips_that_show(self.times, *(span or self.span))[self.first[method]].any())

    @property
    def chance(self) -> float:
        """Probability of a hit for clips drawn at random."""
        shown = clips_that_show(self.times, *self.span)
        return chance_of_hit(len(shown), int(shown.sum()))


class ShuffledDives(SimulatedDives):
    """Simulated dives whose training scores have changed places, so that nothing can be learnt from them."""

    def read_labels(self) -> AqaData:
        data = super().read_labels()
        train = data.splits["train"]
        order = np.random.default_rng(derive_seed("shuffled scores", self.seed)).permutation(len(train))
        scores = train.data.column("score").take(order)
        table = train.data.table.set_column(train.column_names.index("score"), "score", scores)
        return replace(data, splits=DatasetDict({**data.splits, "train": Dataset(table)}))


def find_effects(truth: Mapping[str, Any]) -> dict[str, float]:
    """Fault -> points that it cost: mean over panels of judges, without this fault and with all."""
    severities = {name: truth[name] for name in FAULTS if truth[name] > 0}

    def mean_score(faults: Mapping[str, float]) -> float:
        generator = np.random.default_rng(derive_seed("effects", truth["sample_id"]))
        return float(panel_score(truth["difficulty"], draw_marks(faults, generator, PANELS)).mean())

    total = mean_score(severities)
    rest = {name: {other: worth for other, worth in severities.items() if other != name} for name in severities}
    return {name: mean_score(others) - total for name, others in rest.items()}


def clips_that_show(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """
    Whether each clip shows a fault: half of the clip or more lies in its time, or it holds the middle of that time.

    Args:
        times: (clips, 2) seconds.
        start: second in which the fault begins.
        end: and ends.
    """
    overlap = np.minimum(times[:, 1], end) - np.maximum(times[:, 0], start)
    middle = (start + end) / 2
    holds_middle = (times[:, 0] <= middle) & (middle < times[:, 1])
    return (overlap >= LEAST_SHARE * (times[:, 1] - times[:, 0])) | holds_middle


def chance_of_hit(clips: int, shown: int) -> float:
    """Probability that one of `TOP` clips drawn of `clips` is one of the `shown`."""
    return 1 - comb(clips - shown, TOP) / comb(clips, TOP)


def find_planted(model: str | Path, data: AqaData, features: Path, split: str = "test") -> Iterator[Finding]:
    """
    Explain the dives of a split that a fault cost 5 points or more.

    Args:
        model: checkpoint folder or Hub name.
        data: simulated dives.
        features: folder of the features of the recordings, with the times of their clips.
        split: name of the split.
    """
    ((model, processor),) = load_members([str(model)])
    rows = data.splits[split].with_format("numpy")
    for row in tqdm(rows, "explaining dives", unit="dive", disable=None):
        effects = find_effects(row)
        worst = max(effects, key=effects.get, default=None)
        if worst is None or effects[worst] < LEAST_EFFECT:
            continue
        contents = {name: row[name] for name in data.modalities if row[name] is not None}
        sample_id = str(row["sample_id"])
        clips = explain(model, processor=processor, features=contents, sample_id=sample_id, method="both").clips
        for modality, faults in SEEN_IN.items():
            if modality not in clips or worst not in faults:
                continue
            found = clips[modality]
            times = read_times(features / modality / f"{sample_id}.safetensors")
            span = float(row[f"{worst}_start"]), float(row[f"{worst}_end"])
            methods = {"occlusion": found.occlusion[:, 0], "gradients": found.gradients[:, 0]}
            first = {name: np.argsort(values)[:TOP] for name, values in methods.items()}
            yield Finding(modality, worst, span, times, first, float(found.agreement[0]))


def share_in_others(findings: Sequence[Finding], method: str) -> float:
    """Share of hits where the first clips of each dive are held against the faults of all other dives."""
    hits = [each.is_hit(method, other.span) for each in findings for other in findings if other is not each]
    return float(np.mean(hits)) if hits else np.nan


def summarise_findings(findings: list[Finding]) -> list[list[Any]]:
    """Rows of a table: hits of each modality and fault, and of all, beside chance and hits in other dives."""
    rows = [["clips", "worst fault", "dives", "occlusion", "others", "gradients", "others", "chance", "agreement"]]
    for modality in SEEN_IN:
        of_modality = [each for each in findings if each.modality == modality]
        for fault in [*FAULTS, "any"]:
            chosen = [each for each in of_modality if fault in (each.fault, "any")]
            if chosen:
                cells = []
                for method in ("occlusion", "gradients"):
                    hits = np.mean([each.is_hit(method) for each in chosen])
                    cells += [f"{hits:.1%}", f"{share_in_others(chosen, method):.1%}"]
                agreement = np.nanmedian([each.agreement for each in chosen])
                chance = np.mean([each.chance for each in chosen])
                rows.append([modality, fault, len(chosen), *cells, f"{chance:.1%}", f"{agreement:.2f}"])
    return rows


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub name of a model of simulated dives")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder of the dives")
    parser.add_argument("--data_options", nargs="+", metavar="KEY=VALUE", help="other options of simulated_dives")
    arguments = parser.parse_args()
    with exit_on_error():
        options = read_pairs(arguments.data_options, "data_options") or {}
        data = load("simulated_dives", folder=arguments.folder, **options)
        findings = list(find_planted(arguments.model, data, arguments.folder / "features" / data.recipe["name"]))
    print(markdown_table(summarise_findings(findings), left=2))


if __name__ == "__main__":
    run_script(main)
