"""The page: a video on the left, its replacement audio on the right, and the results below."""

from __future__ import annotations

import html
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from icf_avs.errors import UserError
from icf_avs.inference.segment import Segmenter
from icf_avs.inference.word_prompts import LIST, known_words
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
_MAX_WORDS_LENGTH = 1000  # characters


class _Result:
    """Page components that show one result."""

    def __init__(self, name: str, hint: str) -> None:
        self.hint = hint
        self.summary = gr.Markdown(hint, elem_id=f"{name}-summary")
        self.overlay = gr.Video(
            label="What sounds is tinted", interactive=False, height=320, buttons=[], elem_id=f"{name}-overlay"
        )
        self.tags = gr.HTML(elem_id=f"{name}-words")
        self.pictures = gr.Gallery(
            label="Second by second", columns=3, height="auto", object_fit="contain", interactive=False, buttons=[],
            elem_id=f"{name}-pictures",
        )  # fmt: skip
        with gr.Row():
            self.masks = gr.DownloadButton("Masks (ZIP of PNG)", interactive=False, elem_id=f"{name}-masks")
            self.document = gr.DownloadButton("JSON", interactive=False, elem_id=f"{name}-json")
        self.parts = [self.summary, self.overlay, self.tags, self.pictures, self.masks, self.document]

    def filled(self, result: PageResult) -> tuple[Any, ...]:
        """Return the values of `parts` for a result."""
        return (
            html.escape(result.summary), str(result.overlay), result.words,
            [(str(path), caption) for path, caption in result.pictures],
            gr.DownloadButton(value=str(result.masks), interactive=True),
            gr.DownloadButton(value=str(result.document), interactive=True),
        )  # fmt: skip

    def cleared(self, hint: str = "") -> tuple[Any, ...]:
        """Return the values of `parts` before there is a result."""
        button = gr.DownloadButton(value=None, interactive=False)
        return hint or self.hint, None, "", None, button, button


def build_page(
    segmenter: Segmenter, store: Path, limits: Limits, jobs: int = 1, example: Path | None = None
) -> gr.Blocks:
    """Build the page, with a queue that processes `jobs` videos at a time. Results go to folders in `store`.

    example: path of an example video made by write_scene.
    """
    # Gradio calls from dozens of threads in turn, and glibc would keep the peak memory of each thread allocated.
    workers = ThreadPoolExecutor(jobs, thread_name_prefix="segment")

    def infer(
        video: str, audio_mode: AudioMode, other: str | None, settings: tuple[str, float, float], bar: gr.Progress
    ) -> PageResult:
        words, fps, threshold = settings
        with suppress(FileNotFoundError):
            upload = Path(video).parent
            used = max(time.time(), upload.stat().st_mtime)  # that of the example video lies years ahead
            os.utime(upload, (used, used))
        with _errors_shown():
            if len(words) > _MAX_WORDS_LENGTH:
                raise UserError(f"more than {_MAX_WORDS_LENGTH} characters of words; leave some out")
            run = copy_context().run  # Gradio stores in the context which request the progress belongs to
            return workers.submit(
                run, run_inference, segmenter, Path(video), store, limits, audio_mode, other and Path(other),
                lambda done, total: bar(done / total, desc=f"Segmenting: {done:.0f} of {total:.0f} seconds"),
                words, fps, threshold,
            ).result()  # fmt: skip

    def segment_original(
        video: str | None, words: str = "", fps: float = 1, threshold: float = 0.5,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:  # fmt: skip
        if video is None:
            return original_result.cleared()
        return original_result.filled(infer(video, "own", None, (words, fps, threshold), progress))

    def segment_override(
        video: str | None, heard: AudioMode | None, other: str | None, words: str = "", fps: float = 1,
        threshold: float = 0.5, progress: gr.Progress = gr.Progress(),  # noqa: B008  (Gradio names its API by these)
    ) -> tuple[Any, ...]:  # fmt: skip
        if video is None or heard is None or (heard == "clip" and other is None):
            return override_result.cleared()
        result = infer(video, heard, other, (words, fps, threshold), progress)
        return override_result.filled(replace(result, summary=f"{_OTHER_SOUNDS[heard]}. {result.summary}"))

    with gr.Blocks(title="ICF-AVS", analytics_enabled=False) as page:
        gr.Markdown(
            "# What makes the sound?\nDrop a video. Whatever makes its sound is tinted, second by second. Then replace "
            f"the sound and see whether the tint follows it. Model: **{html.escape(segmenter.name)}**. Videos of at "
            f"most {limits.max_seconds} seconds and {limits.max_mb} MB; they are deleted after an hour."
        )
        with gr.Row():
            video = gr.Video(label="Your video, with its sound", sources=["upload"], height=300, elem_id="video")
            with gr.Column():
                words = gr.Textbox(
                    "", label="Only these sounds (empty: all)", placeholder="barking, car horn", elem_id="words",
                    visible=segmenter.model.config.evidence is not None, max_length=_MAX_WORDS_LENGTH,
                )  # fmt: skip
                with gr.Row():
                    fps = gr.Slider(1, 10, value=1, step=1, label="Masks a second", elem_id="fps")
                    threshold = gr.Slider(0.05, 0.95, value=0.5, step=0.05, label="Threshold", elem_id="threshold")
                again = gr.Button("Segment again", elem_id="again")
                choices = [(label, name) for name, label in _OTHER_SOUNDS.items()]
                audio_mode = gr.Radio(choices, label="Replace its sound by", elem_id="heard")
                other = gr.Video(
                    label="The clip whose sound is used", sources=["upload"], height=200, visible=False,
                    elem_id="other",
                )  # fmt: skip
        if example is not None:
            gr.Examples([[str(example)]], [video], label=f"Example video. {CREDIT}.", api_visibility="private")
        if words.visible:
            label = "Examples of sounds to ask for; then segment again"
            gr.Examples([[text] for text in _EXAMPLE_WORDS], [words], label=label, api_visibility="private")
            with gr.Accordion("All sounds that the model knows", open=False, elem_id="known"):
                known = sorted(word for word, tags in known_words().items() if tags)
                gr.Markdown(", ".join(known), max_height=300)
        with gr.Row():
            with gr.Column():
                gr.Markdown("### Its own sound")
                original_result = _Result("own", "No video yet.")
            with gr.Column():
                gr.Markdown("### Another sound, the same frames")
                override_result = _Result("changed", "Choose another sound.")

        quick = {"queue": False, "api_visibility": "private"}
        queued = {"concurrency_id": "segment", "concurrency_limit": jobs, "scroll_to_output": True}
        settings = [words, fps, threshold]
        original_event = queued | {
            "fn": segment_original, "inputs": [video, *settings], "outputs": original_result.parts,
            "show_progress_on": original_result.overlay,
        }  # fmt: skip
        override_event = queued | {
            "fn": segment_override, "inputs": [video, audio_mode, other, *settings], "outputs": override_result.parts,
            "show_progress_on": override_result.overlay,
        }  # fmt: skip
        started = gr.on(
            [video.change, words.submit, again.click],
            lambda upload: (*original_result.cleared("Segmenting." if upload else ""), *override_result.cleared()),
            video, original_result.parts + override_result.parts, **quick,
        )  # fmt: skip
        original_segmented = started.then(**original_event, api_name="listen")
        original_segmented.success(**override_event, api_name="instead")
        original_segmented.failure(lambda: "No result.", None, original_result.summary, **quick)
        mode_chosen = audio_mode.input(
            lambda mode: (gr.Video(visible=mode == "clip"), *override_result.cleared()), audio_mode,
            [other, *override_result.parts],
            trigger_mode="multiple", **quick,
        )  # fmt: skip
        mode_chosen.then(**override_event, api_visibility="private")
        other.change(**override_event, api_visibility="private")
    page.queue(max_size=64, default_concurrency_limit=jobs, api_open=False)
    return page


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Show a UserError as one line. For any other error, log it and show only that processing failed."""
    try:
        yield
    except UserError as error:
        line = str(error).replace(LIST, "the page lists what can be asked for")
        raise gr.Error(html.escape(line), duration=None, title="Please change", print_exception=False) from None
    except Exception:
        logging.getLogger(__name__).exception("a video could not be segmented")
        raise gr.Error(_FAILED, duration=None, title="Failed", print_exception=False) from None
