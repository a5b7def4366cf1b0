"""Publish a trained model on the Hub: model, processor, code, card, metrics and pictures, in one commit.

limssr publish FOLDER USER/NAME [--private] [--adapter] [--language_model FOLDER_OR_FILE]
limssr publish FOLDER USER/NAME --space [--examples FOLDER]      (and the page of `limssr app`, as a Space)

Log in with `hf auth login` first, or set HF_TOKEN.
"""

from pathlib import Path

from limssr.training.utils.launching import exit_on_error, run_script, script_parser
from limssr.training.utils.loading import add_language_model_flag


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", help="folder of a trained model or of one of its checkpoints")
    parser.add_argument("repository", help="USER/NAME on the Hub, created where it is missing")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--adapter", action="store_true", help="push only the trained weights, no language model")
    parser.add_argument("--space", action="store_true", help="publish a Space of the same name that serves the model")
    parser.add_argument(
        "--examples", type=Path, metavar="FOLDER", help="performances to try in the Space, for everybody to see"
    )
    add_language_model_flag(parser)
    arguments = parser.parse_args()
    if arguments.examples and not arguments.space:
        parser.error("--examples is of --space")
    if arguments.examples and not arguments.examples.is_dir():
        parser.error(f"--examples {arguments.examples}: there is no such folder")
    with exit_on_error():
        from limssr.modeling_limssr.neighbours_limssr import NEIGHBOURS_FILE
        from limssr.training.hub.repository import publish

        if Path(arguments.folder, NEIGHBOURS_FILE).is_file():
            print(
                f"{NEIGHBOURS_FILE} goes along: ids and scores of training performances. Remove it to keep them here."
            )
        url = publish(
            arguments.folder,
            arguments.repository,
            private=arguments.private or None,
            adapter=arguments.adapter,
            language_model=arguments.language_model,
        )
        print(f"{arguments.folder} is published: {url}")
        if arguments.space:
            from limssr.training.hub.space import publish_space

            # `name` alone becomes `user/name`, which the URL of the commit says.
            repository = url.partition("/commit/")[0].split("/")
            space = publish_space("/".join(repository[-2:]), arguments.examples, arguments.private or None)
            print(f"Its Space: {space}")


if __name__ == "__main__":
    run_script(main)
