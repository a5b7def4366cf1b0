"""What happens when a button of the page is pressed; each session has the performances that it scored."""

import functools
import logging
import re
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from ...configuration.configuration_limssr import TEXT
from ...processing.recordings_limssr import Recording
from ..prediction.files import FileSample
from .markup import comparison, player, score_card
from .service import Performance, ScoringService

logger = logging.getLogger(__name__)

KEPT_BYTES = 32 * 2**20  # of the clips of a session; the oldest performances are forgotten first
Kept = dict[str, Performance]


def readable_errors(function: Callable) -> Callable:
    """Show what a person did wrong in one line, without folders of the server; a fault of ours goes to the log."""

    @functools.wraps(function)
    def call(self: "Handlers", *arguments):
        try:
            return function(self, *arguments)
        except (ModuleNotFoundError, OSError, TypeError, ValueError) as error:
            message = re.sub(rf"{re.escape(str(self.folder))}/[^/\s]*/", "", " ".join(str(error).split()))
        except Exception:
            logger.exception("a request failed")
            message = "The page has a fault. Its log says which; whoever runs it can read it."
        raise gr.Error(escape(message), duration=None, print_exception=False)

    return call


class Handlers:
    """
    Functions of the page's events.

    Args:
        service: what scores.
        folder: Gradio's folder of this process, with the uploaded files.
    """

    def __init__(self, service: ScoringService, folder: Path) -> None:
        self.service, self.folder = service, folder
        sizes = service.model.config.modalities
        self.texts = [name for name, size in sizes.items() if size == TEXT or name in service.processor.written]
        self.clips = [name for name in sizes if name not in self.texts]
        self.score_names = list(service.model.config.score_names)

    @readable_errors
    def score_upload(self, kept: Kept, level: float, shown: str, recording, start, end, *given) -> tuple:
        """Score what was uploaded: a recording, a feature file for each modality of clips, and the texts."""
        files = dict(zip(self.clips, given[: len(self.clips)], strict=True))
        texts = dict(zip(self.texts, given[len(self.clips) :], strict=True))
        paths = {name: Path(path) for name, path in files.items() if path}
        name = Path(recording or next(iter(paths.values()), "performance")).stem
        part = Recording(recording, start or None, end or None) if recording else None
        sample = FileSample(_new_name(name, kept), paths, recording=part)
        return self._show(kept, self.service.read(sample, texts), level, shown)

    @readable_errors
    def score_example(self, kept: Kept, level: float, shown: str, name: str) -> tuple:
        """Score an example."""
        if name not in self.service.examples:
            raise ValueError(f"There is no example {name!r}.")
        return self._show(kept, self.service.read(self.service.examples[name]), level, shown)

    def _show(self, kept: Kept, performance: Performance, level: float, shown: str) -> tuple:
        """Outputs of a new performance: state, ticks, player, results, and the names to compare."""
        used = list(performance.contents)
        results = self._results(performance, used, level, shown)
        kept = _keep(kept, performance)
        recording = performance.recording
        video = player(recording.path if recording else None, performance.name)
        names = list(kept)
        earlier = names[-2] if len(names) > 1 else names[-1]
        choices = [gr.update(choices=names, value=value) for value in (names[-1], earlier)]
        return kept, gr.update(choices=used, value=used), video, results, *choices

    @readable_errors
    def score_again(self, kept: Kept, level: float, shown: str, used: list[str]) -> str:
        """Results of the last performance from the ticked modalities."""
        return self._results(_find(kept), used, level, shown)

    @readable_errors
    def compare(self, kept: Kept, level: float, shown: str, first: str, second: str) -> str:
        """Two performances of this session, each from all that it has."""
        if not first or not second:
            raise ValueError("Choose two performances; score a second one first.")
        performances = [_find(kept, name) for name in (first, second)]
        explanations = [self.service.explain(each, each.contents, level) for each in performances]
        number = self.score_names.index(shown)
        return comparison(explanations, self.service.probability_better(explanations, number), number)

    @readable_errors
    def report(self, kept: Kept, level: float, shown: str, used: list[str]) -> str:
        """Path of a page about the last performance from the ticked modalities."""
        performance = _find(kept)
        page = Path(tempfile.mkdtemp(dir=self.folder), f"{quote(performance.name, safe=' ')}.html")
        self.service.write_report(performance, used, level, page)
        return str(page)

    def _results(self, performance: Performance, used: list[str], level: float, shown: str) -> str:
        explanation = self.service.explain(performance, used, level)
        return score_card(explanation, self.score_names.index(shown))


def _find(kept: Kept, name: str | None = None) -> Performance:
    """A performance of the session, by default the last one."""
    if not kept:
        raise ValueError("Nothing is scored yet, or an hour has passed and it was removed: score a performance first.")
    if name is not None and name not in kept:
        raise ValueError(f"{name!r} is not among the performances of this page any more; score it again.")
    return kept[name or list(kept)[-1]]


def _keep(kept: Kept, performance: Performance) -> Kept:
    """The performances of a session with a new one at the end, without the oldest that take too much memory."""
    sizes = {name: each.size for name, each in {**kept, performance.name: performance}.items()}
    if sizes[performance.name] > KEPT_BYTES:
        raise ValueError(
            f"{performance.name} is too long for this page: its clips take {sizes[performance.name] >> 20} MiB, and "
            f"{KEPT_BYTES >> 20} are allowed. `limssr predict --windows` scores it."
        )
    kept = {name: each for name, each in kept.items() if name != performance.name} | {performance.name: performance}
    while sum(sizes[name] for name in kept) > KEPT_BYTES:
        del kept[next(iter(kept))]
    return kept


def _new_name(name: str, kept: Kept) -> str:
    """The name, with a number where the session has it already."""
    number, new = 1, name
    while new in kept:
        number, new = number + 1, f"{name} ({number + 1})"
    return new
