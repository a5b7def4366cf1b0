"""Calibrate a trained model: give its scores intervals that hold, for every subset of its modalities.

limssr calibrate MODEL DATA [--data_options key=value ...] [--split validation] [--neighbours]

MODEL is a folder, whose config.json gets the table; DATA is the dataset it was trained on, or another one for the
same modalities and scores. The samples must be neither those that trained nor those that selected the model.
`limssr train` does the same at its end where half of the validation samples are enough.
"""

from limssr.training.utils.launching import exit_on_error, run_script, script_parser
from limssr.training.utils.loading import add_language_model_flag, add_loading_flags
from limssr.training.utils.settings import read_pairs


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model")
    parser.add_argument("data", metavar="DATA", help="name of a dataset")
    parser.add_argument("--data_options", nargs="+", metavar="KEY=VALUE", help="options of the dataset")
    parser.add_argument("--split", default="validation", help="split to calibrate on (validation)")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument(
        "--neighbours",
        action="store_true",
        help="keep ids, scores and states of the training samples beside the model, so that explanations show the "
        "three most similar; they go wherever the model is published",
    )
    add_language_model_flag(parser)
    add_loading_flags(parser)
    arguments = parser.parse_args()
    with exit_on_error():
        from limssr.modeling_limssr.neighbours_limssr import NEIGHBOURS_FILE
        from limssr.training.data import load
        from limssr.training.evaluation.run import require_recipe
        from limssr.training.fitting.calibration import calibrate_checkpoint
        from limssr.training.prediction.predictor import load_members
        from limssr.training.utils.loading import loading_options

        data = load(arguments.data, **read_pairs(arguments.data_options, "data_options") or {})
        loading = loading_options(arguments.dtype, arguments.attention, arguments.quantization)
        ((model, processor),) = load_members([arguments.model], arguments.language_model, **loading)
        require_recipe(processor.recipe_digest, data, arguments.data)
        about = (arguments.model, model, processor, arguments.data, data, arguments.split)
        table = calibrate_checkpoint(*about, batch_size=arguments.batch_size, neighbours=arguments.neighbours)
    for mask, scores in table["masks"].items():
        counts = ", ".join(f"{name} {entry['samples']}" for name, entry in scores.items())
        print(f"{mask}: {counts} samples")
    if arguments.neighbours:
        print(f"{arguments.model}/{NEIGHBOURS_FILE} holds training data; the model works without it")
    print(f"{arguments.model} has intervals now: limssr predict {arguments.model} ... --level 0.9")


if __name__ == "__main__":
    run_script(main)
