"""What `test_distributed.py` launches: trains like `train.py`, then each process writes down what it ended with."""

import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import set_seed

from limssr.training.arguments import parse_training_arguments
from limssr.training.data import load
from limssr.training.evaluation.evaluator import evaluate_subsets
from limssr.training.fitting.collator import LimssrCollator
from limssr.training.fitting.model import build_model
from limssr.training.fitting.splits import prepare_training_data
from limssr.training.fitting.trainer import LimssrTrainer
from limssr.training.utils.launching import start_all_processes


class RecordingCollator(LimssrCollator):
    """Remembers which modalities each batch had, and hides audio from every batch of the second process."""

    def __call__(self, rows):
        if torch.distributed.get_rank() == 1:
            rows = [{**row, "audio": None} for row in rows if row["video"] is not None or row["flow"] is not None]
        batch = super().__call__(rows)
        seen.append([int(batch[f"{name}_clip_mask"].any()) for name in self.modalities])
        return batch


seen: list[list[int]] = []


def main() -> None:
    start_all_processes()
    model_arguments, data_arguments, args = parse_training_arguments(sys.argv[1:])
    data = load(data_arguments.dataset, **data_arguments.data_options)
    rows = prepare_training_data(data, data_arguments, args.seed)
    set_seed(args.seed)
    model, processor = build_model(model_arguments, data)
    collator = RecordingCollator(processor, list(data.modalities), data.score_names, rows.dynamic_mask)
    trainer = LimssrTrainer(
        model,
        args,
        train_dataset=rows.train,
        eval_dataset=rows.validation,
        processing_class=processor,
        data_collator=collator,
    )
    trainer.train()
    result = evaluate_subsets(
        model, processor, data.splits["test"], accelerator=trainer.accelerator, batch_size=4, progress=False
    )
    tensors = {f"model.{name}": tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    tensors |= {f"scores.{mask.name}": torch.from_numpy(np.array(mask.predictions.scores)) for mask in result.masks}
    tensors["seen"] = torch.tensor(seen)
    save_file(tensors, f"{args.output_dir}/process{args.process_index}.safetensors")
    trainer.save_model()


if __name__ == "__main__":
    main()
