"""Cases frozen in tests/golden, by name, as JSON values. tests/test_goldens.py compares them.

Videos are lossless (FFV1, PCM), so that no golden depends on the version of an encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
import pytest
import torch
from avsbench_fixtures import NAMES, write_avss, write_ms3, write_s4
from documents import parsers
from PIL import Image
from tagger_weights import published_weights

import icf_avs
from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.cli.parser import build_parser
from icf_avs.config import DataConfig, ModelConfig, TrainConfig, WordDataConfig
from icf_avs.encoders import voc_segmenter
from icf_avs.encoders.registry import build_visual
from icf_avs.encoders.tagger_encoder import WordTagger
from icf_avs.errors import MissingWeights
from icf_avs.export.export_model import export_command
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.media.images import resize_frames
from icf_avs.networks.build import build_model as assembled
from icf_avs.synthetic.batches import Clip
from icf_avs.synthetic.tagger_cache import TaggerOutputs
from icf_avs.training import composed_data
from icf_avs.training.recipes import RECIPES, with_encoders
from icf_avs.training.run import training_data
from icf_avs.training.trainer import Trainer, build_model
from icf_avs.types import ClipSpec
from tools.make_picture import write_scene

ROOT = Path(__file__).parents[1]
CHECKPOINTS = ROOT / "icf_avs" / "pretrained"
CLASSES = ("bell", "cat", "dog")


def truck_scene(folder: Path) -> Clip:
    """Scene of the README figure: a fire truck that sounds in the first three of five seconds."""
    return write_scene(folder / "scene.mp4", ClipSpec())


def lossless(path: Path, clip: Clip, size: tuple[int, int] | None = None) -> Path:
    """Write one frame per second, resized to `size` (width, height) if given, and the waveform at 16 kHz."""
    frames = [Image.fromarray(frame) for frame in clip.frames]
    frames = [frame.resize(size) for frame in frames] if size else frames
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("ffv1", rate=1), file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        video.width, video.height, video.pix_fmt = *frames[0].size, "bgr0"
        for number, frame in enumerate(frames):
            made = av.VideoFrame.from_image(frame)
            made.pts, made.time_base = number, Fraction(1)
            file.mux(video.encode(made))
        samples = np.round(clip.waveform * 32767).astype(np.int16)[None]
        block = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        block.sample_rate, block.pts, block.time_base = 16_000, 0, Fraction(1, 16_000)
        file.mux(audio.encode(block))
        for stream in (video, audio):
            file.mux(stream.encode(None))
    return path


@contextmanager
def natural_weights(segmenter: bool = True) -> Iterator[None]:
    """Use the published weights of `natural`'s frozen encoders; segmenter=False: without those of the segmenter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
        if not segmenter:

            def unavailable() -> None:
                raise MissingWeights("no weights of the segmenter")

            patch.setattr(voc_segmenter, "read_weights", unavailable)
        yield


@contextmanager
def no_recordings() -> Iterator[None]:
    """Replace the tagger's predictions for all recordings (minutes of work) by none: sounds are then words."""

    def nothing(catalog: object, recordings: str, hears: WordTagger, **_: object) -> TaggerOutputs:
        quiet = np.zeros((2, 1, hears.dim), np.float16)
        return TaggerOutputs((), quiet[:0], quiet, quiet[:, 0], np.zeros((0, 2), int), quiet[:0, 0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composed_data, "tagger_outputs", nothing)
        yield


def semantic_model() -> Predictor:
    """Seeded random weights on the real encoder, offset so that half of the pixels are marked."""
    config = ModelConfig(CLASSES, dim=32, pixel_dim=16, layers=1, semantic=True)
    visual = build_visual(config.visual, frozen=True)
    torch.manual_seed(0)
    predictor = Predictor(assembled(config, ClipSpec(), visual, torch.randn(len(CLASSES), 24)))
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8))
    predictor.model.offset.sub_(predictor.predict(frames, torch.zeros(2, predictor.spec.window)).logits.median())
    return predictor


def document(segmenter: Segmenter, video: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Return segmentation.json after checking the mask files against the result."""
    result = segmenter.segment(video, out, **options)
    for frame, path in zip(result.frames, sorted((result.folder / "masks").iterdir()), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)) > 127, frame.mask)
    found = json.loads((result.folder / "segmentation.json").read_text(encoding="utf-8"))
    del found["source"], found["made_with"]["versions"]  # machine-specific
    return found


def segmentations(name: str, clip: Clip, folder: Path) -> dict[str, Any]:
    """Segment the clip as in one of SEGMENTATIONS."""
    size = (171, 97) if name == "odd-size" else (320, 180)
    video = lossless(folder / "clip.mkv", clip, size)
    if name == "semantic":
        return document(Segmenter(semantic_model(), "random"), video, folder, semantic=True, fps=2)
    if name in ("stamps", "odd-size"):
        return document(icf_avs.load("stamps"), video, folder)
    with natural_weights(segmenter=name != "natural-no-segmenter"):
        return document(icf_avs.load("natural"), video, folder, words="fire engine, dog" if name == "words" else None)


SEGMENTATIONS = ("stamps", "natural", "natural-no-segmenter", "words", "semantic", "odd-size")


def pooled(logits: torch.Tensor) -> list[Any]:
    """Logits [T,h,w] -> means of 8 x 8 cells, as lists."""
    return torch.nn.functional.adaptive_avg_pool2d(logits.float(), 8).double().numpy().round(4).tolist()


def fixed_batch(spec: ClipSpec, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames of the scene, uint8 [2,S,S,3], and their audio windows [2,window] at the model's sample rate."""
    frames = resize_frames(torch.from_numpy(np.stack([clip.frames[second] for second in (1, 4)])), spec.image_size)
    wave = np.repeat(clip.waveform, spec.sample_rate // 16_000)
    starts = [max(0, spec.window_start(second)) for second in (1, 4)]
    windows = [np.pad(wave[start : start + spec.window], (0, spec.window))[: spec.window] for start in starts]
    return frames, torch.from_numpy(np.stack(windows).astype(np.float32))


def logits(name: str, clip: Clip, folder: Path) -> dict[str, Any]:
    """Keys and shapes of a shipped checkpoint, and its logits for the fixed batch."""
    with natural_weights():
        model = load_checkpoint(CHECKPOINTS / f"{name}.safetensors")
        prediction = Predictor(model).predict(*fixed_batch(model.spec, clip))
    state = {key: str(list(value.shape)) for key, value in model.state_dict().items()}
    return {"state": dict(sorted(state.items())), "logits": pooled(prediction.logits)}


def onnx_logits(name: str, clip: Clip, folder: Path) -> dict[str, Any]:
    """Signature of the exported file, and its logits for the fixed batch."""
    export_command(name, folder, "onnx", folder)
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    spec = load_checkpoint(CHECKPOINTS / f"{name}.safetensors").spec
    frames, waves = (part[None].numpy() for part in fixed_batch(spec, clip))
    found = session.run(["logits"], {"frames": frames, "waves": waves})[0][0]
    put = {
        "inputs": [[each.name, each.type, [str(side) for side in each.shape]] for each in session.get_inputs()],
        "outputs": [[each.name, each.type, len(each.shape)] for each in session.get_outputs()],
    }
    return {**put, "logits": pooled(torch.from_numpy(found))}


def ten_steps(name: str, clip: Clip, folder: Path) -> dict[str, Any]:
    """Loss terms and diagnostics of ten steps of a reduced recipe.

    Without the nearest-neighbour share "z* of another class", where rounding decides ties.
    """
    torch.manual_seed(0)
    config, source = _small(name, folder)
    with natural_weights(), no_recordings():
        data = training_data(config, source, 1, lambda *_: None)
        trainer = Trainer(config, data, build_model(config, data.classes), folder)
        steps = {str(step): trainer.train_step(*trainer.batches(step)) for step in range(trainer.total)}
    for terms in steps.values():
        terms.pop("z* of another class", None)
    return steps


def _small(name: str, folder: Path) -> tuple[TrainConfig, Path | None]:
    run = {"steps": 7, "audio_pretrain_steps": 3, "highres_steps": 0, "warmup": 2}
    if name == "natural":
        config = RECIPES[name]()
        words = WordDataConfig(images=16, clips=2, validation=8)
        run |= {"steps": 10, "audio_pretrain_steps": 0}
        return replace(config, **run, batch=10, words=words, spec=replace(config.spec, image_size=96)), None
    if name == "stamps":
        data = DataConfig(images=16, clips=4, validation=8)
        return replace(RECIPES[name](), **run, data=data, audio_pretrain_batch=8, batch=10, clip_share=0.4), None
    config = with_encoders(RECIPES[f"{name}-pvt"](), "efficientnet-lite0", "log-mel", "minilm")
    splits = ("train", "train", "train", "val", "test")
    rows = [(f"{i}_0_5000", NAMES[1 + i % 2], split) for i, split in enumerate(splits)]
    write_s4(folder / "Single-source", [(f"clip-{i:06d}", 3, "dog", split) for i, split in enumerate(splits)])
    write_ms3(folder / "Multi-sources", [(f"many-{i:06d}", split) for i, split in enumerate(splits)])
    write_avss(folder / "AVSS", [(uid[0], uid, 0, 0, kind, split, "v1m") for uid, kind, split in rows], names=NAMES)
    source = {"s4": "Single-source", "ms3": "Multi-sources", "avss": "AVSS"}[name]
    return replace(config, **run, batch=2 * config.spec.frames, audio_pretrain_batch=4), folder / source


TEN_STEPS = ("stamps", "natural", "s4", "ms3", "avss")


def command_help(name: str, clip: Clip, folder: Path) -> dict[str, Any]:
    """Help of every command, without usage lines: Python versions wrap them differently."""
    found = {}
    for command in parsers(build_parser()):
        options = {
            " ".join(action.option_strings) or str(action.dest): [action.metavar and str(action.metavar), action.help]
            for action in command._actions
        }
        found[command.prog] = {"description": command.description, "epilog": command.epilog, "options": options}
    return found


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"segment/{name}": (segmentations, name) for name in SEGMENTATIONS},
    **{f"checkpoint/{name}": (logits, name) for name in ("stamps", "natural")},
    "onnx/stamps": (onnx_logits, "stamps"),
    **{f"ten_steps/{name}": (ten_steps, name) for name in TEN_STEPS},
    "help": (command_help, ""),
}
