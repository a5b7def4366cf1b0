"""HTML of what the page shows. Whatever a user named or wrote is escaped."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..explanation.explanation import ClipContributions, Explanation

SOUND_SUFFIXES = (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus", ".wma", ".aiff")
FILES = "gradio_api/file="  # where Gradio serves the files of a session, relative to the page


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def player(path: str | Path | None, name: str) -> str:
    """Player of a recording that Gradio may serve; empty without one."""
    if path is None:
        return ""
    kind = "audio" if Path(path).suffix.lower() in SOUND_SUFFIXES else "video"
    label = escape(f"Recording {name}", quote=True)
    return f'<{kind} controls preload="metadata" aria-label="{label}" src="{FILES}{quote(str(path))}"></{kind}>'


def score_card(explanation: Explanation, number: int = 0) -> str:
    """One score of a performance: the score, its interval, what each modality and each clip adds to it."""
    parts = [_headline(explanation, number), _scale(explanation, number), _contributions(explanation, number)]
    if any(clips.times is not None for clips in explanation.clips.values()):
        parts.append(_timeline(explanation, number))
    if explanation.neighbours:
        parts.append(_neighbours(explanation, number))
    return f'<div class="limssr">{"".join(parts)}</div>'


def _headline(explanation: Explanation, number: int) -> str:
    low, high = explanation.score_bounds[number]
    name = escape(explanation.score_names[number])
    text = f"<strong>{explanation.scores[number]:.2f}</strong> {name} of {escape(explanation.sample_id)}"
    return f'<p role="status" class="headline">{text} <small>on a scale of {low:g} to {high:g}</small></p>' + (
        f"<p>{interval_text(explanation, number)}</p>"
    )


def interval_text(explanation: Explanation, number: int = 0) -> str:
    """What the interval of a score says, in a sentence."""
    if explanation.interval is None:
        return "No interval: this model is not calibrated. <code>limssr calibrate</code> does it."
    low, high = explanation.interval[number]
    text = f"With {explanation.level:.0%} probability the judges' score lies between {low:.2f} and {high:.2f}."
    if not explanation.sufficient_evidence[number]:
        text += " <strong>Insufficient evidence:</strong> the scores of the training alone say as much."
    return text


def _scale(explanation: Explanation, number: int) -> str:
    low, high = explanation.score_bounds[number]

    def place(value: float) -> float:
        return 100 * float(np.clip((value - low) / (high - low), 0, 1))

    marks = f'<i class="base" style="left:{place(explanation.baseline[number]):.2f}%"></i>'
    if explanation.interval is not None:
        start, end = map(place, explanation.interval[number])
        marks += f'<i class="interval" style="left:{start:.2f}%;width:{end - start:.2f}%"></i>'
    marks += f'<i class="value" style="left:{place(explanation.scores[number]):.2f}%"></i>'
    ends = f"<span>{low:g}</span><span>{high:g}</span>"
    return f'<div class="scale" aria-hidden="true"><div>{marks}</div>{ends}</div>'  # the sentences above say it


def _contributions(explanation: Explanation, number: int) -> str:
    values = {name: each[number] for name, each in explanation.contributions.items()}
    largest = max(map(abs, values.values())) or 1.0
    rows = [
        f"<tr><th scope=row>{escape(explanation.baseline_name)}</th><td></td>"
        f"<td>{explanation.baseline[number]:.2f}</td><td></td></tr>"
    ]
    for name in explanation.modalities:
        if name not in values:
            rows.append(f"<tr class=missing><th scope=row>{escape(name)}</th><td></td><td>missing</td><td></td></tr>")
            continue
        without = explanation.scores[number] - explanation.leave_one_out[name][number]
        rows.append(
            f"<tr><th scope=row>{escape(name)}</th><td>{_bar(values[name] / largest)}</td>"
            f"<td>{signed(values[name])}</td><td>{without:.2f}</td></tr>"
        )
    head = "<tr><th scope=col>Modality</th><td></td><th scope=col>adds</th><th scope=col>score without it</th></tr>"
    caption = "<caption>What each modality adds to the score</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _bar(share: float) -> str:
    """A bar from the middle, to the right for a positive share of at most 1."""
    start = 50 if share >= 0 else 50 + 50 * share
    kind = "up" if share >= 0 else "down"
    return f'<div class="bar"><i class="{kind}" style="left:{start:.2f}%;width:{50 * abs(share):.2f}%"></i></div>'


def _timeline(explanation: Explanation, number: int) -> str:
    timed = {name: clips for name, clips in explanation.clips.items() if clips.times is not None}
    start = min(clips.times[:, 0].min() for clips in timed.values())
    end = max(clips.times[:, 1].max() for clips in timed.values())
    largest = max(np.abs(clips.values[:, number]).max() for clips in timed.values()) or 1.0
    rows = "".join(
        f'<div class="track"><span>{escape(name)}</span><div role="toolbar" '
        f'aria-label="Clips of {escape(name, quote=True)}; arrow keys move from one to the next">'
        f"{''.join(_clip_buttons(name, clips, number, (start, end), largest))}</div></div>"
        for name, clips in timed.items()
    )
    axis = f'<div class="axis"><span>{start:.2f} s</span><span>{end:.2f} s</span></div>'
    return (
        '<div class="timeline"><p>What each clip adds to the score: above the line it raises the score, below it '
        f"lowers it. Press a clip to see it in the recording.</p>{rows}{axis}</div>"
    )


def _clip_buttons(
    name: str, clips: ClipContributions, number: int, span: tuple[float, float], largest: float
) -> Iterator[str]:
    """Buttons of a modality's clips; overlapping clips begin where the next one does. One takes part in tabbing."""
    start, length = span[0], span[1] - span[0]
    begins, values = clips.times[:, 0], clips.values[:, number]
    ends = np.minimum(clips.times[:, 1], np.append(begins[1:], np.inf))
    for place, (begin, end, value) in enumerate(zip(begins, ends, values, strict=True)):
        label = f"{name}, {begin:.2f} to {clips.times[place, 1]:.2f} s: {signed(value)}"
        style = f"left:{100 * (begin - start) / length:.3f}%;width:{100 * (end - begin) / length:.3f}%"
        height = f"height:{50 * abs(value) / largest:.1f}%"
        yield (
            f'<button type="button" data-seconds="{begin:.3f}" tabindex="{0 if place == 0 else -1}" style="{style}" '
            f'title="{escape(label, quote=True)}" aria-label="{escape(label, quote=True)}">'
            f'<i class="{"up" if value >= 0 else "down"}" style="{height}"></i></button>'
        )


def _neighbours(explanation: Explanation, number: int) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(each.sample_id)}</th><td>{each.scores[number]:.2f}</td>"
        f"<td>{each.similarity:.2f}</td></tr>"
        for each in explanation.neighbours
    )
    head = "<tr><th scope=col>Performance</th><th scope=col>judged</th><th scope=col>similarity</th></tr>"
    caption = "<caption>Judged training performances most like this one</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table>"


def comparison(explanations: Sequence[Explanation], probability: float | None, number: int = 0) -> str:
    """Two performances side by side, and the probability that the first one scores higher."""
    rows = [("Score", [f"{each.scores[number]:.2f}" for each in explanations])]
    if explanations[0].interval is not None:
        level = f"{explanations[0].level:.0%} interval"
        rows.append((level, ["{:.2f} to {:.2f}".format(*each.interval[number]) for each in explanations]))
    rows.append(("Scored from", [escape(", ".join(each.used)) for each in explanations]))
    head = "".join(f"<th scope=col>{escape(each.sample_id)}</th>" for each in explanations)
    body = "".join(
        f"<tr><th scope=row>{title}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for title, cells in rows
    )
    first, second = (escape(each.sample_id) for each in explanations)
    if probability is None:
        apart = signed(explanations[0].scores[number] - explanations[1].scores[number])
        text = f"{first} scores {apart} points beside {second}."
    else:
        text = f"The probability that the judges score {first} higher than {second} is {probability:.0%}."
    table = f"<table><caption>Comparison</caption><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="limssr"><p role="status" class="headline">{text}</p>{table}</div>'
