"""Segment a video with ONNX Runtime and PyAV alone: one mask (0 or 255) a second, as large as the video.

icf export --out model && python examples/onnx_segment.py model/stamps.onnx street.mp4 masks
"""

import json
import math
import os
import sys

import av
import numpy as np
import onnxruntime

model, video, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
notes = session.get_modelmeta().custom_metadata_map
spec, words = json.loads(notes["spec"]), json.loads(notes["words"])
fps, side, rate, window = spec["fps"], spec["image_size"], spec["sample_rate"], spec["window"]

at, sound, resampler = {}, [np.zeros(window, np.float32)], av.AudioResampler("fltp", "mono", rate)
with av.open(video) as file:
    start = float(file.streams.video[0].start_time * file.streams.video[0].time_base)
    for frame in file.decode(video=0, audio=0):
        if isinstance(frame, av.VideoFrame):  # the picture on display in the middle (`phase`) of each second stays
            at[max(0, math.ceil((frame.time - start) * fps - spec["phase"] - 1e-6))] = frame
            count = max(1, math.ceil((frame.time - start + 1 / file.streams.video[0].average_rate) * fps - 0.1))
        else:
            late = np.zeros(max(0, round((frame.time - start) * rate)) if len(sound) == 1 else 0, np.float32)
            sound += [late, *(block.to_ndarray()[0] for block in resampler.resample(frame))]
sound += [block.to_ndarray()[0] for block in resampler.resample(None)]  # what is left in it
wave = np.concatenate([*sound, np.zeros(math.ceil(count / fps * rate) + window, np.float32)])
pictures = [at[max(second for second in at if second <= i)] for i in range(count)]

os.makedirs(out, exist_ok=True)
for begin in range(0, count, spec["frames"]):  # clips as long as the model was trained on
    clip = range(begin, min(begin + spec["frames"], count))
    frames = np.stack([pictures[i].reformat(format="rgb24").to_ndarray(width=side, height=side) for i in clip])
    first = [window + round((i + 0.5) / fps * rate - window / 2) for i in clip]  # of the sound around each middle
    waves = np.stack([wave[one : one + window] for one in first])
    logits, *heard = session.run(None, {"frames": frames[None], "waves": waves[None]})
    for i, each in zip(clip, logits[0], strict=True):
        small = av.VideoFrame.from_ndarray(each / np.abs(each).max() / 2 + 0.5, "grayf32le")  # which is from 0 to 1
        mask = small.to_ndarray(width=pictures[i].width, height=pictures[i].height) > 0.5
        print(f"{i:6d} {mask.mean():7.2%} {words[heard[0][0][i - begin].argmax()] if words else ''}")
        av.VideoFrame.from_ndarray(mask * np.uint8(255), "gray").save(f"{out}/{i:06d}.png")
