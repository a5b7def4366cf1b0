"""What `test_distributed.py` launches in two processes: each of them writes down what it ended with.

two_process_run.py CONFIG.yaml FOLDER
"""

import json
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from limssr.training.arguments import parse_training_arguments
from limssr.training.evaluation.evaluator import evaluate_subsets
from limssr.training.fitting.collator import LimssrCollator
from limssr.training.fitting.run import prepare_run
from limssr.training.utils.launching import start_all_processes

SCRIPTS = Path(__file__).parents[2] / "training"


class RecordingCollator(LimssrCollator):
    """Records which modalities each batch has, and hides audio from every batch of the second process."""

    def __call__(self, rows):
        if torch.distributed.get_rank() == 1:
            rows = [{**row, "audio": None} for row in rows if row["video"] is not None or row["flow"] is not None]
        batch = super().__call__(rows)
        available.append([int(batch[f"{name}_clip_mask"].any()) for name in self.modalities])
        return batch


available: list[list[int]] = []


def prepare(config: str, folder: Path, *flags):
    return prepare_run(*parse_training_arguments([config, "--output_dir", str(folder), *map(str, flags)]))


def train_without_audio_in_one_process(config: str, folder: Path, *flags) -> None:
    run = prepare(config, folder, "--per_device_train_batch_size", 6, "--max_steps", 5, *flags)
    trainer, available[:] = run.trainer, []
    collator = trainer.data_collator
    trainer.data_collator = RecordingCollator(collator.processor, collator.modalities, collator.score_names)
    trainer.train()
    result = evaluate_subsets(
        trainer.model,
        trainer.processing_class,
        run.data.splits["test"],
        accelerator=trainer.accelerator,
        batch_size=4,
        progress=False,
    )
    tensors = {f"model.{name}": tensor.contiguous().clone() for name, tensor in trainer.model.state_dict().items()}
    tensors |= {f"scores.{mask.name}": torch.from_numpy(np.array(mask.predictions.scores)) for mask in result.masks}
    tensors["available"] = torch.tensor(available)
    save_file(tensors, folder / f"process{trainer.args.process_index}.safetensors")
    trainer.save_model()


def train_and_resume(config: str, folder: Path) -> None:
    """A run, and one that goes on from the middle of its second epoch."""
    flags = ["--missingness", "dynamic", "--save_strategy", "steps", "--save_steps", 6, "--save_total_limit", 5]
    flags += ["--logging_strategy", "steps", "--logging_steps", 1, "--num_train_epochs", 3]
    flags += ["--per_device_train_batch_size", 5, "--load_best_model_at_end", "false"]
    resume = ["--resume_from_checkpoint", folder / "straight" / "checkpoint-6"]
    for name, more in {"straight": [], "resumed": resume}.items():
        trainer = prepare(config, folder / name, *flags, *more).trainer
        trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
        trainer.save_model()
        if trainer.is_world_process_zero():
            (folder / name / "history.json").write_text(json.dumps(trainer.state.log_history))


def run_script(name: str, output: Path, *words) -> None:
    sys.argv = [name, *map(str, words)]
    with output.open("w") as stream, redirect_stdout(stream):
        try:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def main() -> None:
    config, folder = sys.argv[1], Path(sys.argv[2])
    train_without_audio_in_one_process(config, folder / "plain")
    train_without_audio_in_one_process(config, folder / "checkpointing", "--activation_checkpointing", "true")
    train_and_resume(config, folder)
    process = torch.distributed.get_rank()
    run = folder / "run"
    flags = ["--missingness", "dynamic", "--per_device_train_batch_size", 5, "--folds", 2, "--output_dir", run]
    run_script("train.py", folder / f"train{process}.txt", config, *flags)
    options = ["--data_options", "samples_train=48", "samples_test=21", "--batch_size", 4]
    run_script("eval.py", folder / f"eval{process}.txt", run, "synthetic", *options, "--output_dir", folder / "eval")


if __name__ == "__main__":
    start_all_processes()
    main()
