"""The page itself: what stands where, and which event calls which function."""

import gradio as gr

from ...configuration.calibration_limssr import DEFAULT_LEVEL
from .handlers import Handlers

REMOVED_AFTER = 3600  # seconds that files and performances of a session are kept
SWEPT_EVERY = 300
# Saves the file of a component that nobody sees.
DOWNLOAD = """(file) => {
  const link = document.createElement("a");
  [link.href, link.download] = [file.url, file.orig_name];
  link.click();
}"""
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)


def build_page(handlers: Handlers, title: str) -> gr.Blocks:
    """
    The page as Gradio blocks.

    Args:
        handlers: functions of its events.
        title: name of the model.
    """
    service, config = handlers.service, handlers.service.model.config
    with gr.Blocks(
        title=f"{title} · limssr", analytics_enabled=False, delete_cache=(SWEPT_EVERY, REMOVED_AFTER)
    ) as page:
        kept = gr.State({}, time_to_live=REMOVED_AFTER)
        modalities = _listed(list(config.modalities))
        gr.Markdown(f"# {title}\nPredicts the judges' score from {modalities}; any of them may be missing.")
        with gr.Row():
            with gr.Column(min_width=300):
                given, score = _inputs(handlers)
                example = gr.Dropdown(
                    list(service.examples), value=None, label="Or score an example", visible=bool(service.examples)
                )
            with gr.Column(min_width=300, scale=2):
                recording = gr.HTML(elem_id="recording")
                used = gr.CheckboxGroup([], label="Modalities used", info="Untick one to hide it from the model.")
                with gr.Row():
                    level = gr.Radio(
                        [(f"{each:.0%}", each) for each in LEVELS],
                        value=DEFAULT_LEVEL,
                        label="Probability of the interval",
                        visible=config.calibration is not None,
                    )
                    shown = gr.Dropdown(
                        handlers.score_names,
                        value=handlers.score_names[0],
                        label="Score shown",
                        visible=len(handlers.score_names) > 1,
                    )
                results = gr.HTML(elem_id="results")
                report, file = gr.Button("Download report"), gr.DownloadButton(visible=False)
        with gr.Accordion("Compare two performances of this page", open=False):
            with gr.Row():
                pair = [gr.Dropdown([], label=label) for label in ("First performance", "Second performance")]
            compare = gr.Button("Compare")
            compared = gr.HTML(elem_id="comparison")
        settings, outputs = [kept, level, shown], [kept, used, recording, results, *pair]
        # One at a time: there is one model, and what it does fills the cores.
        alone = {"concurrency_id": "model", "concurrency_limit": 1}
        scores = {**alone, "show_progress_on": results}
        score.click(handlers.score_upload, [*settings, *given], outputs, api_name="score", **scores)
        example.input(handlers.score_example, [*settings, example], outputs, api_name="score_example", **scores)
        again = {"fn": handlers.score_again, "inputs": [*settings, used], "outputs": results, **scores}
        used.input(**again, trigger_mode="always_last", api_name="score_again")
        for control in (level, shown):
            control.input(**again, trigger_mode="always_last", api_visibility="private")
        report.click(handlers.report, [*settings, used], file, api_name="report", **scores).success(
            None, file, js=DOWNLOAD
        )
        pressed = {"show_progress_on": compared, "api_name": "compare"}
        compare.click(handlers.compare, [*settings, *pair], compared, **pressed, **alone)
    return page


def _inputs(handlers: Handlers) -> tuple[list, gr.Button]:
    """Components for the inputs of `Handlers.score_upload`, after the settings, and the button."""
    sizes, takes_recordings = handlers.service.model.config.modalities, handlers.service.takes_recordings
    recording = gr.File(label="Recording", file_types=["video", "audio"], visible=takes_recordings, height=140)
    with gr.Row(visible=takes_recordings):
        part = [gr.Number(0, label=label, minimum=0) for label in ("From second", "To second (0: the end)")]
    texts = {name: gr.Textbox(label=name.capitalize(), lines=3, render=False) for name in handlers.texts}
    for box in texts.values():
        box.render()
    with gr.Accordion("Feature files", open=not takes_recordings, visible=bool(handlers.clips)):
        files = [
            gr.File(label=f"{name}: .npy or .safetensors, [clips, {sizes[name]}]", file_types=[".npy", ".safetensors"])
            for name in handlers.clips
        ]
    return [recording, *part, *files, *texts.values()], gr.Button("Score", variant="primary")


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
