"""The page: a video on the left, the sound that replaces its own on the right, and the result of each below."""

from __future__ import annotations

import html
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from icf_avs.errors import UserError
from icf_avs.inference.segment import Segmenter
from icf_avs.inference.word_prompts import LIST
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import AudioMode, PageResult, run_inference
from icf_avs.serve.timeline import CSS as TIMELINE_CSS
from icf_avs.synthetic.example_scene import CREDIT

CSS = (
    TIMELINE_CSS
    + ".gradio-container { max-width: 1200px !important; margin: 0 auto !important; } "
    + "footer { display: none !important; } "
    + ".caption-label { max-width: 100% !important; white-space: normal !important; font-size: 13px !important; } "
    + "@media (max-width: 640px) { .grid-container { grid-template-columns: repeat(2, 1fr) !important; } }"
)
_EXAMPLE_WORDS = ("dog", "siren", "woman; man", "singing, guitar", "car horn", "birds")
_OTHER_SOUNDS = {"muted": "Muted", "noise": "White noise", "clip": "Another clip's sound"}
_FAILED = "The page failed at this video. It is not your fault; the log of the server has more."


class _Column:
    """Where one result is shown."""

    def __init__(self, title: str, hint: str, name: str) -> None:
        self.hint = hint
        with gr.Column():
            gr.Markdown(f"### {title}")
            self.summary = gr.Markdown(hint, elem_id=f"{name}-summary")
            self.overlay = gr.Video(
                label="What sounds is tinted", interactive=False, height=320, buttons=[], elem_id=f"{name}-overlay"
            )
            gr.Markdown("How sure the model is of each sound, and how much of the frame is tinted, in percent:")
            self.words = gr.HTML(elem_id=f"{name}-words")
            self.pictures = gr.Gallery(
                label="Second by second", columns=3, height=320, object_fit="contain", interactive=False, buttons=[],
                elem_id=f"{name}-pictures",
            )  # fmt: skip
            with gr.Row():
                self.masks = gr.DownloadButton("Masks (ZIP of PNG)", interactive=False, elem_id=f"{name}-masks")
                self.document = gr.DownloadButton("JSON", interactive=False, elem_id=f"{name}-json")

    @property
    def parts(self) -> list[gr.components.Component]:
        return [self.summary, self.overlay, self.words, self.pictures, self.masks, self.document]

    def shown(self, found: PageResult) -> tuple[Any, ...]:
        """Values of `parts`."""
        return (
            html.escape(found.summary), str(found.overlay), found.words,
            [(str(path), caption) for path, caption in found.pictures],
            gr.DownloadButton(value=str(found.masks), interactive=True),
            gr.DownloadButton(value=str(found.document), interactive=True),
        )  # fmt: skip

    def emptied(self) -> tuple[Any, ...]:
        """Values of `parts` before there is a result."""
        button = gr.DownloadButton(value=None, interactive=False)
        return self.hint, None, "", None, button, button


def build_page(
    segmenter: Segmenter, store: Path, limits: Limits, jobs: int = 1, example: Path | None = None
) -> gr.Blocks:
    """The page, with a queue that works on `jobs` videos at a time; results go to folders in `store`.

    example: a video to click, made by write_scene.
    """
    # Gradio calls from dozens of threads in turn, and glibc keeps for each what the largest video took in it.
    workers = ThreadPoolExecutor(jobs, thread_name_prefix="segment")

    def infer(
        video: str, heard: AudioMode, other: str | None, settings: tuple[str, float, float], progress: gr.Progress
    ) -> PageResult:
        with suppress(FileNotFoundError):
            upload = Path(video).parent
            used = max(time.time(), upload.stat().st_mtime)  # of the page's own example it is years from now
            os.utime(upload, (used, used))
        with _errors_shown():
            run = copy_context().run  # where Gradio keeps whose progress it is
            given = segmenter, Path(video), store, limits, heard, other and Path(other), _bar(progress), *settings
            return workers.submit(run, run_inference, *given).result()

    def listen(
        video: str | None, words: str = "", fps: float = 1, threshold: float = 0.5,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:  # fmt: skip
        if video is None:
            return own.emptied()
        return own.shown(infer(video, "own", None, (words, fps, threshold), progress))

    def instead(
        video: str | None, heard: AudioMode | None, other: str | None, words: str = "", fps: float = 1,
        threshold: float = 0.5, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:  # fmt: skip
        if video is None or heard is None or (heard == "clip" and other is None):
            return changed.emptied()
        found = infer(video, heard, other, (words, fps, threshold), progress)
        return changed.shown(replace(found, summary=f"{_OTHER_SOUNDS[heard]}. {found.summary}"))

    with gr.Blocks(title="ICF-AVS", analytics_enabled=False) as page:
        gr.Markdown(
            "# What makes the sound?\nDrop a video. Whatever makes its sound is tinted, second by second. Then replace "
            f"the sound and see whether the tint follows it. Model: **{html.escape(segmenter.name)}**. Videos of at "
            f"most {limits.max_seconds} seconds and {limits.max_mb} MB; they are deleted after an hour."
        )
        with gr.Row():
            video = gr.Video(label="Your video, with its sound", sources=["upload"], height=300, elem_id="video")
            with gr.Column():
                choices = [(label, name) for name, label in _OTHER_SOUNDS.items()]
                heard = gr.Radio(choices, label="Replace its sound by", elem_id="heard")
                other = gr.Video(
                    label="The clip whose sound is used", sources=["upload"], height=200, visible=False,
                    elem_id="other",
                )  # fmt: skip
        with gr.Row():
            words = gr.Textbox(
                "", label="Only these sounds (empty: all)", placeholder="barking, car horn", scale=2, elem_id="words",
                visible=segmenter.model.config.evidence is not None, max_length=1000,
            )  # fmt: skip
            fps = gr.Slider(1, 10, value=1, step=1, label="Masks a second", elem_id="fps")
            threshold = gr.Slider(0.05, 0.95, value=0.5, step=0.05, label="Threshold (lower: larger masks)")
            again = gr.Button("Segment again", elem_id="again")
        clicked = []
        if example is not None:
            label = f"Example video. {CREDIT}."
            clicked.append(gr.Examples([[str(example)]], [video], label=label, api_visibility="private"))
        if words.visible:
            clicked.append(
                gr.Examples([[text] for text in _EXAMPLE_WORDS], [words], label="Examples of sounds to ask for",
                            api_visibility="private")
            )  # fmt: skip
        with gr.Row():
            own = _Column("Its own sound", "No video yet.", "own")
            changed = _Column("Another sound, the same frames", "Choose another sound.", "changed")

        quick = {"queue": False, "api_visibility": "private"}
        work = {"concurrency_id": "segment", "concurrency_limit": jobs}
        settings = [words, fps, threshold]
        compare = work | {
            "fn": instead, "inputs": [video, heard, other, *settings], "outputs": changed.parts,
            "show_progress_on": changed.overlay,
        }  # fmt: skip
        empty_changed = {"fn": changed.emptied, "outputs": changed.parts, **quick}
        listening = work | {
            "fn": listen, "inputs": [video, *settings], "outputs": own.parts, "show_progress_on": own.overlay
        }  # fmt: skip
        asked = gr.on([video.upload, words.submit, again.click], own.emptied, None, own.parts, **quick)
        named = {"api_name": "listen"}, {"api_name": "instead"}
        for event in (asked, *(examples.load_input_event.then(own.emptied, None, own.parts, **quick)
                               for examples in clicked)):  # fmt: skip
            heard_own = event.then(**empty_changed).then(**listening, **named[0])
            heard_own.success(**compare, **named[1])
            named = ({"api_visibility": "private"},) * 2
        video.clear(lambda: own.emptied() + changed.emptied(), None, own.parts + changed.parts, **quick)
        switched = heard.input(
            lambda kind: gr.Video(visible=kind == "clip"), heard, other, trigger_mode="multiple", **quick
        )
        switched.then(**empty_changed).then(**compare, api_visibility="private")
        other.upload(**compare, api_visibility="private")
    page.queue(max_size=64, default_concurrency_limit=jobs, api_open=False)
    return page


def _bar(progress: gr.Progress) -> Callable[[float, float], None]:
    return lambda done, total: progress(done / total, desc=f"Segmenting: {done:.0f} of {total:.0f} seconds")


@contextmanager
def _errors_shown() -> Iterator[None]:
    """What can be fixed is shown in its one line; of anything else the visitor learns nothing but that it failed."""
    try:
        yield
    except UserError as error:
        line = str(error).replace(LIST, "the page has examples of words")
        raise gr.Error(html.escape(line), duration=None, title="Please change", print_exception=False) from None
    except Exception:
        logging.getLogger(__name__).exception("a video could not be segmented")
        raise gr.Error(_FAILED, duration=None, title="Failed", print_exception=False) from None
