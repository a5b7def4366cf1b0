"""Hyperparameter search on several data sets: `Trainer.hyperparameter_search` with Optuna, on folds of each."""

import json
import time
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory
from typing import Any

from transformers.trainer_utils import IntervalStrategy

from ..arguments import Arguments
from ..data import AqaData, load
from ..data.aqa_data import read_targets
from ..evaluation.seeds import TRAINING_SETTINGS
from ..utils.files import without_paths
from .folds import choose_epoch
from .model import build_model, start_at_mean
from .run import make_collator
from .splits import TrainingData, prepare_training_data
from .trainer import LimssrTrainer

SPACE = {  # lowest and highest value, and whether to draw the logarithm
    "learning_rate": (1e-4, 5e-3, True),
    "weight_decay": (1e-4, 0.3, True),
    "dropout": (0.0, 0.5, False),  # of the projectors and of the heads alike
}
CRITERION = "spearman"


class SearchTrainer(LimssrTrainer):
    """Train a trial of `hyperparameter_search` on each fold in turn, where the stock trainer has one split.

    A trial may be pruned after any epoch of the first fold. Its value is the mean criterion over the folds after the
    best epoch (`choose_epoch`), 0 if it is undefined: predictions without any order.

    Args:
        arguments: settings of a run; trials change those of `SPACE`.
        data: its dataset.
        folds: training and validation rows of each fold.
    """

    def __init__(self, arguments: Arguments, data: AqaData, folds: list[TrainingData]):
        self.model_arguments, self.data_arguments, args = arguments
        self.data, self.folds, self.train_dataset = data, folds, folds[0].train
        processor = build_model(self.model_arguments, data)[1]
        collator = make_collator(data, self.data_arguments, folds[0], processor, args.seed)
        rows = (folds[0].train, folds[0].validation)
        super().__init__(None, args, collator, *rows, processor, model_init=self._build)
        self.steps = self.set_initial_training_values(args, self.get_train_dataloader())[-1]

    def _build(self, trial):
        arguments = self.model_arguments
        if trial is not None:
            dropout = suggest(trial, "dropout")
            arguments = replace(arguments, projector_dropout=dropout, head_dropout=dropout)
        model, _ = build_model(arguments, self.data)
        if arguments.start_at_mean:
            start_at_mean(model, read_targets(self.train_dataset, self.data.score_names))
        return model

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        from optuna.trial import FixedTrial

        histories, of_fold = [], trial
        for fold in self.folds:
            self.train_dataset, self.eval_dataset = fold.train, fold.validation
            about = (self.data, self.data_arguments, fold, self.processing_class, self.args.seed)
            self.data_collator = make_collator(*about)
            output = super().train(trial=of_fold)
            histories.append(self.state.log_history)
            of_fold = FixedTrial(trial.params)  # which reports nothing: epochs of two folds would be mixed up
        self.objective = choose_epoch(histories, CRITERION, greater_is_better=True).best or 0.0
        return output


def suggest(trial, name: str) -> float:
    low, high, log = SPACE[name]
    return trial.suggest_float(name, low, high, log=log)


def search(
    configs: Mapping[str, Arguments], storage: str, *, trials: int, folds: int, seed: int, minutes: float | None = None
) -> Iterator[dict[str, Any]]:
    """Measure the same random points on every data set, one after the other, and yield the result so far.

    `Trainer.hyperparameter_search` knows one data set, so it is called once for each data set and point; a sampler
    that is seeded by the number of the point makes the points the same. A point counts by its mean criterion over the
    data sets, Spearman's rank correlation, clipped as in validation; one that is pruned anywhere does not count.

    Args:
        configs: name of a data set -> arguments of `train.py`.
        storage: SQLite file that keeps finished trials; an interrupted search goes on from it.
        trials: number of points.
        folds: folds of each training split; neither validation nor test splits are read.
        seed: seed of the points.
        minutes: no further point is begun after so long.

    Raises:
        ModuleNotFoundError: Optuna is not installed.
        ValueError: the storage holds trials of other settings, a split has too few rows or groups, there are several
            processes, or no trials.
    """
    if trials < 1:
        raise ValueError(f"`trials` is {trials}; allowed is 1 or more.")
    try:
        import optuna
    except ModuleNotFoundError:
        raise ModuleNotFoundError("the search needs the package optuna: pip install optuna") from None
    end = None if minutes is None else time.monotonic() + 60 * minutes
    with TemporaryDirectory() as scratch:
        trainers, studies = {}, {}
        for name, arguments in configs.items():
            studies[name] = _open_study(optuna, name, arguments, storage, folds, seed)
            trainers[name] = _make_trainer(arguments, folds, scratch)
        for number in range(trials):
            for name, trainer in trainers.items():
                if len(_finished(studies[name])) <= number:
                    trainer.hyperparameter_search(
                        hp_space=lambda trial: {key: suggest(trial, key) for key in ("learning_rate", "weight_decay")},
                        compute_objective=lambda metrics: metrics[f"eval_{CRITERION}"],
                        n_trials=1,
                        direction="maximize",
                        backend="optuna",
                        study_name=studies[name].study_name,
                        storage=f"sqlite:///{storage}",
                        load_if_exists=True,
                        sampler=optuna.samplers.RandomSampler(seed * 1000 + number),
                        pruner=optuna.pruners.MedianPruner(n_warmup_steps=trainer.steps // 2),
                    )
            yield _combine(studies) | {"folds": folds, "seed": seed, "criterion": CRITERION}
            if end is not None and time.monotonic() > end:
                return


def _make_trainer(arguments: Arguments, folds: int, output_dir: str) -> SearchTrainer:
    model_arguments, data_arguments, args = arguments
    if args.world_size > 1:
        raise ValueError(f"the search runs in one process, not in {args.world_size}.")
    args = copy(args)
    args.output_dir, args.report_to, args.disable_tqdm = output_dir, [], True
    args.save_strategy, args.eval_strategy = IntervalStrategy.NO, IntervalStrategy.EPOCH
    args.load_best_model_at_end = args.push_to_hub = False
    data_arguments = replace(data_arguments, folds=folds)
    data = load(data_arguments.dataset, **data_arguments.data_options)
    rows = [prepare_training_data(data, data_arguments, args.seed, fold) for fold in range(folds)]
    return SearchTrainer((model_arguments, data_arguments, args), data, rows)


def _open_study(optuna, name: str, arguments: Arguments, storage: str, folds: int, seed: int):
    """Open the study of a data set, or begin it."""
    model_arguments, data_arguments, args = arguments
    settings = asdict(model_arguments) | asdict(data_arguments) | {"seed": args.seed, "folds": folds}
    settings |= {key: args.to_dict().get(key) for key in TRAINING_SETTINGS}
    settings = json.dumps(without_paths(settings), sort_keys=True)
    study = optuna.create_study(
        study_name=f"{name}, points of seed {seed}",
        storage=f"sqlite:///{storage}",
        direction="maximize",
        load_if_exists=True,
    )
    if study.user_attrs.get("settings", settings) != settings:
        raise ValueError(f"{storage} holds trials of {name} with other settings; name another file, or give the same.")
    study.set_user_attr("settings", settings)
    return study


def _finished(study) -> list:
    """Return the trials that ended, pruned or not, in the order of their points."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def _combine(studies: Mapping[str, Any]) -> dict[str, Any]:
    """Return the best point and every point that all data sets have, with its value in each; None = pruned."""
    points = []
    for number, trials in enumerate(zip(*map(_finished, studies.values()), strict=False)):
        values = [trial.value if trial.state.name == "COMPLETE" else None for trial in trials]
        mean = None if None in values else sum(values) / len(values)
        of_each = dict(zip(studies, values, strict=True))
        points.append({"number": number, **trials[0].params, "mean": mean, "values": of_each})
    complete = [point for point in points if point["mean"] is not None]
    best = max(complete, key=lambda point: point["mean"], default=None)
    settings = best and {key: best[key] for key in ("learning_rate", "weight_decay")}
    settings = best and settings | {"projector_dropout": best["dropout"], "head_dropout": best["dropout"]}
    return {"best": settings, "trials": points}
