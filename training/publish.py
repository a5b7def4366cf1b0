"""Publish a trained model on the Hub: model, processor, code, card, metrics and pictures, in one commit.

limssr publish FOLDER USER/NAME [--private] [--adapter] [--language_model FOLDER_OR_FILE]

Log in with `hf auth login` first, or set HF_TOKEN.
"""

from limssr.training.utils.launching import exit_on_error, run_script, script_parser
from limssr.training.utils.loading import add_language_model_flag


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", help="folder of a trained model or of one of its checkpoints")
    parser.add_argument("repository", help="USER/NAME on the Hub, created where it is missing")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--adapter", action="store_true", help="push only the trained weights, no language model")
    add_language_model_flag(parser)
    arguments = parser.parse_args()
    with exit_on_error():
        from limssr.training.hub.repository import publish

        url = publish(
            arguments.folder,
            arguments.repository,
            private=arguments.private or None,
            adapter=arguments.adapter,
            language_model=arguments.language_model,
        )
    print(f"{arguments.folder} is published: {url}")


if __name__ == "__main__":
    run_script(main)
