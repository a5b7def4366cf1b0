"""Serves the page of one model."""

import os
import tempfile
from pathlib import Path

from ..prediction.files import suffixes_of
from ..prediction.predictor import load_members
from .service import MAX_SECONDS, ScoringService, find_examples

QUEUE = 24  # requests that wait; more are told that the queue is full
SESSIONS = 50  # whose performances are in memory
MAX_UPLOAD = "200mb"
EXAMPLES = "example"  # folder beside a model


def serve(
    model: str,
    examples: str | Path | None = None,
    host: str | None = None,
    port: int | None = None,
    max_seconds: float = MAX_SECONDS,
    **loading,
) -> None:
    """
    Serve the page until the process is interrupted. Nothing of it asks for anything beyond this machine.

    Uploaded files lie in a temporary folder, are removed an hour after they came, and all at the end.

    Args:
        model: checkpoint folder or Hub name.
        examples: performances to try, see `find_examples`; by default the folder `example` of the model.
        host: address to listen on; by default what GRADIO_SERVER_NAME says, or this machine alone.
        port: port to listen on; by default what GRADIO_SERVER_PORT says, or a free one from 7860 on.
        max_seconds: longest part of a recording that is read.
        **loading: further arguments of `load_members`.

    Raises:
        ModuleNotFoundError: Gradio is not installed.
        OSError, ValueError: the model or its examples cannot be loaded, or the port is in use.
    """
    with tempfile.TemporaryDirectory(prefix="limssr-app-") as folder:
        # Gradio reads these when it is imported.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        try:
            import gradio
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("the page needs the package gradio: pip install 'limssr[app]'") from error
        from .handlers import Handlers
        from .page import build_page

        loaded, processor = load_members([model], **loading)[0]
        found = _find_examples(model, examples, suffixes_of(loaded.config.modalities, processor.written))
        service = ScoringService(loaded, processor, found, max_seconds)
        page = build_page(Handlers(service, Path(folder)), Path(model).resolve().name)
        page.queue(max_size=QUEUE, default_concurrency_limit=1, api_open=False)
        own = Path(__file__).parent
        page.launch(
            server_name=host,
            server_port=port,
            allowed_paths=[str(sample.recording.path) for sample in found.values() if sample.recording],
            max_file_size=MAX_UPLOAD,
            state_session_capacity=SESSIONS,
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css_paths=own / "page.css",
            js=(own / "page.js").read_text(encoding="utf-8"),
            footer_links=[],
            share=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            run_history=False,
            enable_monitoring=False,
            inbrowser=False,
        )


def _find_examples(model: str, folder: str | Path | None, suffixes: dict[str, tuple[str, ...]]) -> dict:
    beside = Path(model, EXAMPLES)
    if folder is None and not beside.is_dir():
        return {}
    return find_examples(Path(folder or beside).resolve(), suffixes)
