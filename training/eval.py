"""Evaluate a checkpoint under a protocol of missing modalities, beside the training mean and ridge regression.

python training/eval.py MODEL DATA [--data_options key=value ...] [--split test] [--output_dir DIR]
python training/eval.py MODEL training/configs/X.yaml     (the data of a training run, and what it hid of it for good)
    --protocol subsets                                                    every subset of the modalities (default)
    --protocol rates --rates video=0.3 audio=0.5 flow=0.7 --permutations  imbalanced missing rates, in every order
    --protocol curve                                                      missing rates of 0, 0.1 ... 0.9
    --protocol available                                                  what the data has
python training/eval.py MODEL DATA --ensemble_with MODEL ...              (the mean of what several models say)

Prints the table; writes metrics.json, predictions.parquet and evaluation.png.
"""

from accelerate import Accelerator

from limssr.training.data import load, report_missing
from limssr.training.evaluation.arguments import parse_evaluation_arguments
from limssr.training.evaluation.run import caveats_of, evaluate_checkpoint, write_evaluation
from limssr.training.evaluation.tables import evaluation_table, title_with_caveats
from limssr.training.utils.launching import exit_on_error, start_all_processes


def main() -> None:
    start_all_processes()
    arguments, accelerator = parse_evaluation_arguments(__doc__), Accelerator()
    mistakes = exit_on_error(f"cannot load the dataset {arguments.data}")
    with mistakes, accelerator.main_process_first():  # loading may write a cache
        data = load(arguments.data, **arguments.data_options)
        if accelerator.is_main_process or arguments.require_complete:
            report_missing(data, arguments.list_missing, arguments.require_complete)
    result = evaluate_checkpoint(arguments, data, accelerator)
    if accelerator.is_main_process:
        models = ", ".join(arguments.models)
        averaged = f"mean of {models}" if arguments.ensemble_with else models
        heading = f"{averaged} on {arguments.data}, {arguments.split}: {data.description}"
        print(f"{title_with_caveats(heading, caveats_of(arguments, data))}\n\n{evaluation_table(result)}")
        write_evaluation(result, arguments, data)


if __name__ == "__main__":
    main()
