"""Segment a video with ONNX Runtime alone, without torch and icf-avs: one mask a second, as large as the video.

icf export --out model && python examples/onnx_segment.py model/stamps.onnx street.mp4 masks
"""

import json
import math
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime
from PIL import Image

model, video, out = map(Path, sys.argv[1:])
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
notes = session.get_modelmeta().custom_metadata_map
spec, words = json.loads(notes["spec"]), json.loads(notes["words"])
fps, side, rate, window = spec["fps"], spec["image_size"], spec["sample_rate"], spec["window"]

with av.open(str(video)) as file:  # the picture on display in the middle (`phase`) of each second
    pictures, start, shown = [], None, None
    for frame in file.decode(video=0):
        start = frame.time if start is None else start
        while frame.time - start > (len(pictures) + spec["phase"]) / fps + 1e-6:
            pictures.append(np.asarray(shown.to_image().resize((side, side), Image.Resampling.BILINEAR)))
        shown = frame
    seconds = shown.time - start + 1 / float(file.streams.video[0].average_rate)
    count = max(1, math.ceil(seconds * fps - 0.1))
    pictures += [np.asarray(shown.to_image().resize((side, side), Image.Resampling.BILINEAR))] * (count - len(pictures))

with av.open(str(video)) as file:  # the sound around each of these middles
    resampler, blocks = av.AudioResampler("fltp", "mono", rate), [np.zeros(window, np.float32)]
    for number, frame in enumerate(file.decode(audio=0)):
        if number == 0:
            blocks.append(np.zeros(max(round((frame.time - start) * rate), 0), np.float32))
        blocks += [block.to_ndarray()[0] for block in resampler.resample(frame)]
    blocks += [block.to_ndarray()[0] for block in resampler.resample(None)]
    wave = np.concatenate([*blocks, np.zeros(round(count / fps * rate) + window, np.float32)])
first = [window + round((i + 0.5) / fps * rate - window / 2) for i in range(count)]

out.mkdir(parents=True, exist_ok=True)
for begin in range(0, count, spec["frames"]):  # clips as long as the model was trained on
    clip = range(begin, min(begin + spec["frames"], count))
    frames, waves = np.stack([pictures[i] for i in clip]), np.stack([wave[first[i] : first[i] + window] for i in clip])
    logits, *rest = session.run(None, {"frames": frames[None], "waves": waves[None]})
    for i, each in zip(clip, logits[0], strict=True):
        mask = np.asarray(Image.fromarray(each).resize((shown.width, shown.height), Image.Resampling.BILINEAR)) > 0
        Image.fromarray(mask).save(out / f"{i:06d}.png")
        heard = words[rest[0][0][i - begin].argmax()] if words else ""
        print(f"{i:6d} {mask.mean():7.2%} {heard}")
