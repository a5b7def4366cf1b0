"""Score performances in a browser: a page for recordings, feature files and texts.

limssr app MODEL [--examples FOLDER]            (then open the address that it prints; Ctrl-C ends it)

A modality can be unticked: score, interval and contributions follow. A clip of the timeline shows that moment of the
recording. Two performances can be compared, and a report downloaded. Uploaded files are seen by nobody else and are
removed after an hour.
"""

from limssr.training.utils.launching import exit_on_error, exit_on_interrupt, run_script, script_parser
from limssr.training.utils.loading import add_language_model_flag, add_loading_flags


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder or Hub name")
    parser.add_argument("--examples", metavar="FOLDER", help="performances to try (default: MODEL/example)")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine alone)")
    parser.add_argument("--port", type=int, help="port to listen on (default: a free one from 7860 on)")
    parser.add_argument("--max_seconds", type=float, default=600, help="longest part of a recording (600)")
    add_language_model_flag(parser)
    add_loading_flags(parser)
    arguments = vars(parser.parse_args())
    with exit_on_error(), exit_on_interrupt(lambda: "The page is closed."):
        from limssr.training.interface.server import serve
        from limssr.training.utils.loading import loading_options

        options = loading_options(*(arguments.pop(name) for name in ("dtype", "attention", "quantization")))
        serve(**arguments, **options)


if __name__ == "__main__":
    run_script(main)
