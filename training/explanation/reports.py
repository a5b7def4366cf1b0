"""Pages and pictures of samples from files."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from ..data.sources.files import read_times
from ..prediction.audit import digest_of_weights
from ..prediction.files import FileSample
from ..prediction.predictor import Member
from .explanation import explain
from .figure import save_explanation
from .page import write_page

DIGITS = 16  # of a digest, on a page


def write_reports(
    member: Member, samples: Iterable[FileSample], folder: Path, level: float | None = None, batch_size: int = 16
) -> list[Path]:
    """
    Write `<id>.html` and `<id>.png` for each sample. What no file name may hold is written as in a URL.

    Args:
        member: the model with its processor.
        samples: samples that can be scored.
        folder: folder of the files; it is created.
        level: probability of the intervals; the default one for None.
        batch_size: sequences scored at a time.

    Returns:
        The pages.

    Raises:
        FeatureFileError, RecordingError, OSError: a sample cannot be read, or a file cannot be written.
        ModuleNotFoundError: Jinja2 is not installed.
    """
    model, processor = member
    digest, pages = digest_of_weights(model)[:DIGITS], []
    for sample in samples:
        times = {name: read_times(path) for name, path in sample.paths.items() if name not in sample.without}
        explanation = explain(
            model,
            processor=processor,
            features=sample.read(processor.recipe_digest),
            recording=sample.recording,
            times={name: seconds for name, seconds in times.items() if seconds is not None},
            without=sample.without,
            sample_id=sample.sample_id,
            level=level,
            batch_size=batch_size,
        )
        explanation = replace(explanation, origin={**explanation.origin, "weights": digest})
        pages.append(folder / f"{quote(sample.sample_id, safe=' ')}.html")
        write_page(explanation, pages[-1])
        save_explanation(explanation, pages[-1].with_suffix(".png"))
    return pages
