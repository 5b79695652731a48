"""Gain of each optimisation in docs/SPEED.md that no other benchmark shows: with and without it, in turns.

Encoders and layers run on one thread, as in `icf segment`; a training step and its memory use all threads.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import PVT, Encoder, batch, build_small
from benchmarks.processes import finished
from benchmarks.table import Row
from benchmarks.training import CLIPS, TURNS, one_step
from benchmarks.turns import Machine, row, seconds
from benchmarks.videos import HEIGHT, RATE, SOUND_RATE, WIDTH, pattern, pattern_loop, write_video
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.onednn_layers import pointwise
from icf_avs.encoders.vggish import VGGish
from icf_avs.inference.predictor import Predictor
from icf_avs.mask_rle import encode
from icf_avs.media.images import resize_frames
from icf_avs.networks.pixel_decoder import LightPixelDecoder
from icf_avs.output.video_writer import _AAC, _ENCODER
from icf_avs.training.train_module import TrainModule

Way = Callable[[], object]


def optimisations(
    machine: Machine, encoder: Encoder = PVT, seconds_of_video: int = 2, side: int = 384
) -> Iterator[Row]:
    """Yield rows NAME, against the variant without the optimisation."""
    one = replace(machine, threads=1)
    one.pin()
    try:
        with torch.inference_mode():
            for name, otherwise, unit, ours, theirs in (*_layers(encoder, side), *_frames(side)):
                yield row(name, *seconds(one, ours, theirs), otherwise, one, unit)
    finally:
        machine.pin()
    for name, otherwise, unit, ours, theirs in (
        *_sound(30 * seconds_of_video),
        _overlay(seconds_of_video),
        _features(),
    ):
        yield row(name, *seconds(machine, ours, theirs), otherwise, machine, unit)
    yield _run_lengths(machine)
    yield _decoded_once(machine, 5 * seconds_of_video)
    yield _kept_memory(machine)


def _layers(encoder: Encoder, side: int) -> Iterator[tuple[str, str, str, Way, Way]]:
    """oneDNN layers, and the memory format."""
    frames, small = batch().frames[0], torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
    mel, maps, kernel = torch.randn(5, 96, 64), torch.randn(5, 256, 56, 56), torch.randn(256, 256, 1, 1)
    visual, vggish, lite = encoder.build(), VGGish().eval(), load_efficientnet_lite0()
    plain, rows, contiguous = _plain_linears(visual), _plain_linears(vggish), deepcopy(vggish)
    contiguous.features.to(memory_format=torch.contiguous_format)
    separate = deepcopy(lite).requires_grad_(True)  # only frozen layers are fused
    linears = "PyTorch's linear layers"
    yield f"linear-{encoder.name}", linears, "s/5 frames", lambda: visual(frames), lambda: plain(frames)
    yield "linear-vggish", linears, "s/5 windows", lambda: vggish(mel), lambda: rows(mel)
    yield "channels-last-vggish", "channels first", "s/5 windows", lambda: vggish(mel), lambda: contiguous(mel)
    decoder = LightPixelDecoder(visual.channels, 256).eval()
    pyramid = visual(frames)
    first = [level.contiguous() for level in pyramid]
    yield "channels-last-pyramid", "channels first", "s/5 frames", lambda: decoder(pyramid), lambda: decoder(first)
    yield (
        "pointwise-convolution", "PyTorch's convolution", "s/5 maps",
        lambda: pointwise(maps, kernel, None), lambda: F.conv2d(maps, kernel),
    )  # fmt: skip
    yield "fused-convolutions-lite0", "one step at a time", "s/frame", lambda: lite(small), lambda: separate(small)


def _frames(side: int) -> Iterator[tuple[str, str, str, Way, Way]]:
    """How often frames are encoded, how many at once, and how they are resized."""
    lite, model = load_efficientnet_lite0(), build_small("stamps", side)
    frames = torch.randint(0, 256, (5, side, side, 3), dtype=torch.uint8)
    large = torch.randint(0, 256, (1, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    predictor = Predictor(model)
    clip = torch.randint(0, 256, (model.spec.frames, *[model.spec.image_size] * 2, 3), dtype=torch.uint8)
    sounds = list(0.1 * torch.randn(4, model.spec.frames, model.spec.window))

    def resized_in_floats() -> Tensor:
        planes = large.permute(0, 3, 1, 2).float()
        planes = F.interpolate(planes, (side, side), mode="bilinear", antialias=True)
        return planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()

    yield (
        "frames-one-by-one-lite0", "five at once", "s/5 frames",
        lambda: [lite(frame) for frame in frames.split(1)], lambda: lite(frames),
    )  # fmt: skip
    yield "resize-in-integers", "in floats", "s/frame", lambda: resize_frames(large, side), resized_in_floats
    yield (
        "encoded-once-for-four-sounds", "for each sound", "s/clip",
        lambda: predictor.predict_each(clip, sounds), lambda: [predictor.predict(clip, sound) for sound in sounds],
    )  # fmt: skip


def _plain_linears(network: nn.Module) -> nn.Module:
    network = deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = nn.Linear
    return network


def _sound(length: int) -> Iterator[tuple[str, str, str, Way, Way]]:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, length * SOUND_RATE)).astype(np.float32)

    def encoded(options: dict[str, str]) -> io.BytesIO:
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=SOUND_RATE, layout="mono", options=options)
            for second in np.split(noise, length, axis=1):
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(second), "fltp", "mono")
                frame.sample_rate = SOUND_RATE
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return file

    source = encoded({})

    def copied() -> None:
        source.seek(0)
        with av.open(source) as given, av.open(io.BytesIO(), "w", format="mp4") as container:
            stream = container.add_stream_from_template(given.streams.audio[0])
            for packet in given.demux(audio=0):
                if packet.size:
                    packet.stream = stream
                    container.mux(packet)

    unit = f"s/{length} s of sound"
    yield "aac-faster-search", "the usual search", unit, lambda: encoded(_AAC), lambda: encoded({})
    yield "aac-copied", "encoded", unit, copied, lambda: encoded(_AAC)


def _overlay(length: int) -> tuple[str, str, str, Way, Way]:
    frames = [av.VideoFrame.from_ndarray(each, "rgb24").reformat(format="yuv420p")
              for each in pattern(length * RATE, WIDTH, HEIGHT)]  # fmt: skip

    def written(options: dict[str, str]) -> None:
        with av.open(io.BytesIO(), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = WIDTH, HEIGHT, "yuv420p", 1
            for number, frame in enumerate(frames):
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    crf = {name: value for name, value in _ENCODER.items() if name != "qp"} | {"crf": "23"}
    what = "constant-quantizer", "constant rate factor", f"s/{length} s of 720p"
    return *what, lambda: written(_ENCODER), lambda: written(crf)


def _features() -> tuple[str, str, str, Way, Way]:
    """A training step of the recipe `stamps` on six clips; its visual encoder is frozen."""
    model = build_small("stamps")
    given = batch(6)
    cached = replace(given, pyramid=[level.clone() for level in model.network.encode_frames(given.frames).pyramid])
    step, other = (one_step(TrainModule(deepcopy(model)).train(), each) for each in (cached, given))
    return "cached-features", "frames encoded in every step", "s/step of 6 clips", step, other


def _run_lengths(machine: Machine) -> Row:
    """Bytes of a mask in memory, for a disc whose radius is a quarter of the frame height."""
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    mask = (rows - HEIGHT / 2) ** 2 + (columns - WIDTH / 2) ** 2 < (HEIGHT / 4) ** 2
    size = len(encode(mask)["counts"]) / 1e6
    return row("mask-as-run-lengths", [size], [mask.nbytes / 1e6], "bool array", machine, "MB/mask of 720p")


def _decoded_once(machine: Machine, length: int) -> Row:
    """`icf segment` against a variant in which model and overlay each decode the video, as is done at 4K."""
    code = "import sys; from icf_avs.media import frame_tee; from icf_avs.__main__ import main; "
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(pattern_loop(Path(folder, "loop.mp4"), seconds=length), Path(folder, "video.mp4"), length)
        words = "segment", str(video), "--out", folder, "--checkpoint", "stamps"

        def spent(most: str) -> float:
            return finished(machine, "-c", f"{code}{most}sys.exit(main({words}))").cpu / length

        turns = [[spent(most) for most in ("", "frame_tee._MAX_SHARED_BYTES = 0; ")] for _ in range(TURNS)]
    return row("video-decoded-once", *zip(*turns, strict=True), "twice", machine, "CPU s/s of video")


def _kept_memory(machine: Machine) -> Row:
    """A training step of the query network in a process that keeps freed memory, against one that returns it."""
    words = "-m", "benchmarks.training", "resnet-50", "query-light", "cpu"
    turns = [[float(finished(machine, *words, keep).printed) for keep in ("kept", "given-back")] for _ in range(TURNS)]
    return row("freed-memory-kept", *zip(*turns, strict=True), "given back", machine, f"s/step of {CLIPS} clips")
