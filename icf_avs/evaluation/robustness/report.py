"""One page on one checkpoint: the verdict, the tables, and images. It needs nothing but itself: no script, no
other file, no connection."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from html import escape

import numpy as np
from PIL import Image

from icf_avs.evaluation.robustness.audio_reliance import IGNORES_ABOVE, Verdict, worst
from icf_avs.evaluation.robustness.negative_audio import SOUND_NAMES
from icf_avs.evaluation.robustness.runner import BLANK, Example, RobustnessResult
from icf_avs.evaluation.robustness.scores import ALL, CHANGED, Scores
from icf_avs.evaluation.score_tables import DEFAULT_SETTINGS
from icf_avs.output.overlay import Overlay

_SIDE = 132  # pixels
_COLOURS = 96  # enough for a thumbnail, and a third of the bytes
_SHOWN = ("true", "silence", "noise", "offscreen", "shifted")  # beside frame and truth
_COLUMNS = (
    *(("mIoU", "miou"), ("drop", "drop_miou"), ("G-mIoU", "g_miou")),
    *(("F", "f"), ("drop", "drop_f"), ("G-F", "g_f")),
    *(("FPR", "fpr"), ("null score", "null"), ("mIoU, ref.", "reference_miou"), ("F, ref.", "reference_f")),
)
_BARS = {"miou": "#4477aa", "fpr": "#ee8866"}  # columns with a bar, which shows a column's story at a glance
_STYLE = f"""
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
.verdict {{ border-left: .5rem solid; padding: .6rem 1rem; font-size: 1.1rem; }}
.uses-the-audio {{ border-color: #228833; }} .ignores-the-audio {{ border-color: #cc3311; }}
.undecided {{ border-color: #bbaa22; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }}
th, td {{ padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
tr.part td:first-child {{ padding-left: 1.6rem; }}
.tiles td, .tiles th {{ padding: .15rem; border: 0; text-align: center; font-size: .8rem; font-weight: normal; }}
.tiles img {{ display: block; width: {_SIDE}px; height: {_SIDE}px; }}
.tiles td:first-child {{ min-width: 7rem; white-space: normal; overflow-wrap: anywhere; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .88rem; }}
dt {{ font-weight: 600; }} dd {{ margin: 0; overflow-wrap: anywhere; }}
"""
_READING = f"""
<p>The model sees each clip several times with the same frames and other sounds. All sounds are waveforms that
go through the same front end. Scores are shares in [0, 1], always against the original mask, so under a wrong sound
<b>lower is better</b>.</p>
<dl>
<dt>verdict</dt><dd>how much of the mIoU is left under off-screen sound (noise, where a set knows none): above
{IGNORES_ABOVE} the model ignores the audio. The interval is that of a bootstrap over the clips; where it lies on both
sides of {IGNORES_ABOVE}, they do not decide.</dd>
<dt>mIoU, F</dt><dd>strict protocol: over frames in which something sounds, one threshold for the whole set. F takes
the best of 255 thresholds, one of which segments everything, so F does not fall to 0 even for a blank prediction.</dd>
<dt>ref.</dt><dd>the public AVSBench evaluation, in batches of {DEFAULT_SETTINGS.batch_size}; frames with empty
truth count as background accuracy, so its mIoU does not fall to 0 where there are such frames.</dd>
<dt>drop</dt><dd>score with the true sound minus this one, on the same clips or frames.</dd>
<dt>G</dt><dd>2 m&#8314; (1 &minus; m&#8315;) / (m&#8314; + 1 &minus; m&#8315;) of the true and the wrong sound: high
only for a model that segments what sounds and stays silent when nothing does.</dd>
<dt>FPR, null score</dt><dd>share of pixels segmented, and the mean of its square root, over frames in which nothing
should be segmented.</dd>
<dt>off-screen</dt><dd>the sound of another clip of the set, of a super-category that does not sound in this one and of
a class that is not in its frames. The rows below it split the clips by that super-category.</dd>
<dt>shifted</dt><dd>the clip's own sound moved by half the clip (in whole frames) and wrapped around. In frames where
that changes what sounds, a model that uses the audio loses its mask; what it should segment there instead need not be
the original mask, so its mIoU need not fall to 0.</dd>
<dt>blank frame</dt><dd>mid-grey with the true sound: whatever is segmented was guessed from the sound alone.</dd>
</dl>
"""


def page(
    checkpoint: str, results: Mapping[str, RobustnessResult], verdicts: list[Verdict], facts: Mapping[str, str]
) -> str:
    """The report in HTML: results by test set, their verdicts in that order, and facts on how it came about."""
    verdict = worst(verdicts)
    sentence = verdict.sentence(checkpoint)
    if len(verdicts) > 1:
        sentence += f" Of the {len(verdicts)} sets this one speaks least for it."
    style = verdict.label.replace(" ", "-")
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Does {escape(checkpoint)} use the audio?</title><style>{_STYLE}</style></head><body>",
        f"<h1>Does {escape(checkpoint)} use the audio?</h1>",
        f'<p class="verdict {style}">{escape(sentence)}</p>',
    ]
    if scored := facts.get("what is scored"):
        lines += [f"<p>Scored is {escape(scored)}.</p>"]
    for (test_set, result), own in zip(results.items(), verdicts, strict=True):
        lines += [f"<h2>{escape(test_set)}: {own.label}</h2>", f"<p>{escape(own.summary())}</p>"]
        lines += [f"<p>{escape(note)}</p>" for note in result.notes]
        lines += [_table(result), _tiles(result.examples)]
    lines += ["<h2>How to read this</h2>", _READING, "<h2>How it came about</h2>", "<dl>"]
    lines += [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()]
    return "\n".join([*lines, "</dl></body></html>", ""])


def _table(result: RobustnessResult) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("sound", "clips", "frames", *(name for name, _ in _COLUMNS)))
    rows = []
    for audio in SOUND_NAMES:
        parts = sorted(subset for sound, subset in result.scores if sound == audio and subset != ALL)
        for subset in (ALL, *parts):
            if (audio, subset) in result.scores and (audio != "true" or subset in (ALL, CHANGED)):
                rows.append(_row(audio, subset, result.scores[audio, subset]))
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(audio: str, subset: str, scores: Scores) -> str:
    name = SOUND_NAMES[audio] if subset == ALL else subset
    if subset == CHANGED:
        name = "frames in which a shift changes what sounds"
    cells = "".join(_cell(key, scores[key]) for _, key in _COLUMNS)
    style = "" if subset == ALL else ' class="part"'
    return f"<tr{style}><td>{escape(name)}</td><td>{scores['clips']}</td><td>{scores['frames']}</td>{cells}</tr>"


def _cell(key: str, value: float) -> str:
    if math.isnan(value):
        return "<td>&ndash;</td>"
    text = f"{value:.3f}".replace("-", "&minus;")
    if key not in _BARS:
        return f"<td>{text}</td>"
    end = f"{100 * value:.0f}%"
    bar = f"background: linear-gradient(90deg, {_BARS[key]}66 {end}, transparent {end})"
    return f'<td style="{bar}">{text}</td>'


def _tiles(examples: list[Example]) -> str:
    sounds = [sound for sound in (*_SHOWN, BLANK) if any(sound in example.predicted for example in examples)]
    heads = {"true": "true sound", "offscreen": "off-screen", BLANK: "blank frame"}
    head = "".join(f"<th>{escape(text)}</th>" for text in ("", "frame", "truth", *(heads.get(k, k) for k in sounds)))
    strips = "".join(_strip(example, sounds) for example in examples)
    return f'<div class="wide"><table class="tiles"><tr>{head}</tr>{strips}</table></div>'


def _strip(example: Example, sounds: list[str]) -> str:
    images = [("frame", _tile(example.image)), ("truth", _tile(example.image, example.truth))]
    for sound in sounds:
        if sound in example.predicted:
            image = example.image if sound != BLANK else example.image * 0 + 128
            images.append((f"mask under {sound}", _tile(image, example.predicted[sound])))
        else:
            images.append((sound, ""))
    cells = "".join(f'<td><img alt="{escape(alt)}" src="{data}"></td>' if data else "<td></td>" for alt, data in images)
    note = f"<br>off-screen: {escape(example.donor)}" if example.donor else ""
    return f"<tr><td>{escape(example.clip)}{note}</td>{cells}</tr>"


def _tile(image: np.ndarray, mask: np.ndarray | None = None) -> str:
    """image uint8 [H, W, 3], and mask bool [H, W] drawn in -> "data:image/png;base64,..." of a _SIDE x _SIDE tile.

    With a mask the image loses its colours, so that the mask's stands out on any.
    """
    drawn = image
    if mask is not None:
        drawn = np.array(Image.fromarray(image).convert("L").convert("RGB"))
        Overlay(mask).draw_rgb(drawn)
    small = Image.fromarray(drawn).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.quantize(_COLOURS).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
