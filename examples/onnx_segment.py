"""Segment a video with only ONNX Runtime and PyAV: one mask (0 or 255) per second, in display size.

icf export natural --out model && python examples/onnx_segment.py model/natural.onnx street.mp4 masks

A model with a tagger has a second file, NAME-tags.onnx. Frames for which it predicts no tag are skipped.
"""

import json
import math
import os
import sys
from fractions import Fraction

import av
import numpy as np
import onnxruntime

if len(sys.argv) != 4 or not all(map(os.path.isfile, sys.argv[1:3])):
    sys.exit("usage: python onnx_segment.py MODEL.onnx VIDEO OUT, where MODEL.onnx and VIDEO are files")
model, video, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
tags = model.removesuffix(".onnx") + "-tags.onnx"
tagger = onnxruntime.InferenceSession(tags, providers=["CPUExecutionProvider"]) if os.path.exists(tags) else None
notes = session.get_modelmeta().custom_metadata_map
spec, words = json.loads(notes["spec"]), json.loads(notes["words"])
fps, side, rate, window = spec["fps"], spec["image_size"], spec["sample_rate"], spec["window"]


def shown(frame, array):
    """Turn [H, W, ...] from stored to displayed orientation. Phones store a display matrix [a b u; c d v; ...]."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(bytes(matrix), "=i4")[:5].tolist() if matrix else (1, 0, 0, 0, 1)
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    array = array.swapaxes(0, 1) if transposed else array
    mirror_x, mirror_y = (c < 0, b < 0) if transposed else (a < 0, d < 0)
    return array[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]


def resized(array, height, width):
    """[H, W, ...] -> [height, width, ...], bilinear, antialiased when shrinking."""
    for axis, size in enumerate((height, width)):
        scale = array.shape[axis] / size
        far = np.arange(array.shape[axis]) + 0.5 - (np.arange(size)[:, None] + 0.5) * scale
        weights = np.maximum(0, 1 - abs(far) / max(1, scale))
        weights /= weights.sum(1, keepdims=True)
        array = np.moveaxis(np.tensordot(weights.astype(np.float32), array, (1, axis)), 0, axis)
    return array


def predicted(frames, waves):
    """Clip -> {frame index: mask logits} of the segmented frames, and the probability of each tag [T, words]."""
    if tagger is None:
        logits, *heard = session.run(None, {"frames": frames[None], "waves": waves[None]})
        return dict(enumerate(logits[0])), heard[0][0] if words else None
    (heard,) = tagger.run(None, {"waves": waves[None]})
    active = heard[0].any(1).nonzero()[0]
    if not len(active):
        return {}, heard[0]
    (logits,) = session.run(None, {"frames": frames[None, active], "heard": heard[:, active]})
    return dict(zip(active.tolist(), logits[0], strict=True)), heard[0]


at, sound, start, begin, pictures_read, seen_to, heard_to = {}, [], None, None, 0, 0.0, 0.0
with av.open("file:" + os.path.abspath(video)) as file:  # so that a colon in the name is not read as a protocol
    pictures, track = file.streams.best("video"), file.streams.best("audio")
    resampler = av.AudioResampler("fltp", None, rate)
    for frame in file.decode(pictures, track):
        if isinstance(frame, av.VideoFrame):  # keep the frame shown in the middle (`phase`) of each second
            start = frame.time if start is None else start
            at[max(0, math.ceil((frame.time - start) * fps - spec["phase"] - 1e-6))] = frame
            lasts = float(frame.duration * frame.time_base) if frame.duration else float(1 / pictures.average_rate)
            pictures_read, seen_to = pictures_read + 1, max(seen_to, frame.time + lasts)
        else:
            begin = frame.time if begin is None else begin
            heard_to = frame.time + frame.samples / frame.sample_rate
            sound += [block.to_ndarray().mean(0) for block in resampler.resample(frame)]
sound += [block.to_ndarray().mean(0) for block in resampler.resample(None)]  # flush
if heard_to > seen_to + 0.25 * (pictures_read > 1):  # the last frame is shown until the sound ends
    seen_to = heard_to
count = max(1, math.ceil((seen_to - start) * fps - 0.1))  # a short remainder does not count as a second
late = round((begin - start) * rate)  # second 0 is the first frame; earlier sound is dropped
wave = np.concatenate([np.zeros(window + max(0, late)), *sound])[max(0, -late) :].astype(np.float32)
wave[:window] = 0
wave = np.concatenate([wave, np.zeros(math.ceil(count / fps * rate) + window, np.float32)])
chosen = [at[max(second for second in at if second <= i)] for i in range(count)]

os.makedirs(out, exist_ok=True)
for first in range(0, count, spec["frames"]):  # clips of the length used in training
    clip = range(first, min(first + spec["frames"], count))
    views = [shown(chosen[i], chosen[i].to_ndarray(format="rgb24")) for i in clip]
    frames = np.stack([resized(view, side, side).round().astype(np.uint8) for view in views])
    starts = [window + round((i + 0.5) / fps * rate - window / 2) for i in clip]  # of the window around each middle
    waves = np.stack([wave[begin : begin + window] for begin in starts])
    logits, heard = predicted(frames, waves)
    for i, view in zip(clip, views, strict=True):
        size, now = view.shape[:2], i - first
        mask = resized(logits[now], *size) > 0 if now in logits else np.zeros(size, bool)
        score = heard[now].max() if words else 0
        name = words[heard[now].argmax()] if score >= 0.05 or (score > 0 and mask.any()) else ""
        print(f"{i:6d} {mask.mean():7.2%} {name}")
        png = av.CodecContext.create("png", "w")
        png.height, png.width, png.pix_fmt, png.time_base = *mask.shape, "gray", Fraction(1)
        grey = av.VideoFrame.from_ndarray(mask * np.uint8(255), "gray")
        with open(f"{out}/{i:06d}.png", "wb") as target:
            target.writelines(bytes(packet) for packet in [*png.encode(grey), *png.encode(None)])
print(f"the masks are in {out}{os.sep}", file=sys.stderr)
