"""What the trainer adds to forward and backward: data, clipping, optimizer step, schedule, logging."""

import time
from pathlib import Path

from ..arguments import LimssrTrainingArguments
from ..fitting.trainer import LimssrTrainer
from .prepared_data import make_dataset
from .timing import synchronize
from .workload import Settings, build_model, build_processor


class TimedTrainer(LimssrTrainer):
    """Adds up the time of forward and backward, and notes when each step begins."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.begins: list[float] = []
        self.inside: list[float] = []

    def training_step(self, *args, **kwargs):
        self.begins.append(time.perf_counter())
        loss = super().training_step(*args, **kwargs)
        synchronize(self.args.device)
        self.inside.append(time.perf_counter() - self.begins[-1])
        return loss


def measure_trainer_overhead(folder: Path, settings: Settings, work: Path) -> float:
    """The share of the time from step to step that is neither forward nor backward; the first step is left out.

    Args:
        folder: the saved language model.
        settings: steps, batch size, clips and device.
        work: an empty folder for the trainer.
    """
    model = build_model(folder, settings.device)
    processor = build_processor(folder, model.config)
    arguments = LimssrTrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.trainer_steps + 1,
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=2,
        use_cpu=settings.device == "cpu",
    )
    trainer = TimedTrainer(
        model,
        arguments,
        train_dataset=make_dataset((settings.trainer_steps + 1) * settings.batch_size, settings.clips),
        processing_class=processor,
    )
    trainer.train()
    between = trainer.begins[-1] - trainer.begins[1]  # from the second step to the last one
    return 1 - sum(trainer.inside[1:-1]) / between
