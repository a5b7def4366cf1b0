"""A training that is asked to end finishes its step, saves it, and ends."""

from signal import SIGTERM

import torch
import torch.distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from ..utils.launching import Interrupted, hold_back_signals
from .trainer import LimssrTrainer


def train_until_signal(trainer: LimssrTrainer, checkpoint: str | None) -> TrainOutput:
    """Train to the end, or until SIGINT or SIGTERM.

    Raises:
        Interrupted: a signal came; the checkpoint of the last step is saved.
    """
    with hold_back_signals() as received:
        trainer.add_callback(StopAtSignal(received))
        return trainer.train(resume_from_checkpoint=checkpoint)


class StopAtSignal(TrainerCallback):
    """Saves after the step in which a signal came, and raises it; every process stops after the same step.

    At the end of an epoch, it waits for the validation that belongs to it.

    Args:
        received: signals so far, see `hold_back_signals`.
    """

    def __init__(self, received: list[int]):
        self.received = received
        self.stops = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        is_end_of_epoch = float(state.epoch).is_integer() or control.should_training_stop
        self.stops = self._any_process_is_asked(args) and not is_end_of_epoch
        control.should_save |= self.stops

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.stops = self._any_process_is_asked(args)
        control.should_save |= self.stops

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.stops:
            raise Interrupted(self.received[0] if self.received else SIGTERM)

    def _any_process_is_asked(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return bool(self.received)
        asked = torch.tensor(float(bool(self.received)), device=args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        return bool(asked)
