"""Example user program: segment arrays, compare with segmenting the file, then stream frames and audio."""

import sys

import av
import numpy as np

import icf_avs


def read(path: str) -> tuple[np.ndarray, float, np.ndarray, int]:
    with av.open(path) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        fps = float(file.streams.video[0].average_rate or 1)
    with av.open(path) as file:
        sound = [frame.to_ndarray() for frame in file.decode(audio=0)]
        return np.stack(frames), fps, np.concatenate(sound, axis=1), file.streams.audio[0].rate


path, checkpoint = sys.argv[1:]
segmenter = icf_avs.load(checkpoint)
frames, fps, sound, rate = read(path)
masks = segmenter.segment(frames, frame_rate=fps, audio=sound, sample_rate=rate).masks
others = segmenter.segment(path).masks
print(f"{masks.mean():.1%} segmented, IoU with the file's {(masks & others).sum() / (masks | others).sum()}")
seconds = [sound[:, round(i / fps * rate) : round((i + 1) / fps * rate)] for i in range(len(frames))]
for mask in segmenter.stream(zip(frames, seconds, strict=True), sample_rate=rate):
    print(f"{mask.start} s: {mask.area:.1%}", *(f"{word} {probability:.2f}" for word, probability in mask.heard))
