"""(e) Model input: frames of a video, composed scenes, batches of clips from files.

decode-RATE: RATE frames per second of video, as `icf segment` reads them, against decoding the whole video and
converting every frame to RGB. scenes: composed clips of five frames at one frame a second, against reading such clips
from files. loader-N: batches of four clips read by N worker processes, against none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
from torch.utils.data import DataLoader

from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds
from benchmarks.videos import HEIGHT, LOOP, WIDTH, pattern_loop, write_video
from icf_avs.datasets.dataset import ClipDataset, collate
from icf_avs.datasets.layouts import class_names, read_set
from icf_avs.media.video_reader import probe, read_frames
from icf_avs.synthetic.batches import render_clip
from icf_avs.synthetic.benchmark import write_stamps
from icf_avs.synthetic.catalog import load_catalog
from icf_avs.synthetic.scene_sampler import sample_scene
from icf_avs.synthetic.sounds import SoundBank
from icf_avs.types import ClipSpec


def decoding(
    machine: Machine, rates: Sequence[float] = (1, 5), size: tuple[int, int] = (WIDTH, HEIGHT), loop: int = LOOP
) -> Iterator[Row]:
    """Yield rows decode-RATE."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(pattern_loop(Path(folder) / "loop.mp4", *size, loop), Path(folder) / "video.mp4", loop)
        info = probe(path)

        def some(rate: float) -> None:
            for _ in read_frames(info, ((index + 0.5) / rate for index in range(int(loop * rate)))):
                pass

        def every() -> None:
            with av.open(str(path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for frame in container.decode(video=0):
                    frame.to_ndarray(format="rgb24")

        *mine, reference = seconds(machine, *(lambda rate=rate: some(rate) for rate in rates), every)
        for rate, spent in zip(rates, mine, strict=True):
            per_second = ([value / loop for value in values] for values in (spent, reference))
            yield row(f"decode-{rate:g}fps", *per_second, "every picture to RGB", machine, "s/s of video")


def loading(machine: Machine, clips: int = 8, passes: int = 8, workers: Sequence[int] = (1, 2)) -> Iterator[Row]:
    """Yield rows scenes and loader-N. `clips` clips are written and then read `passes` times."""
    catalog = load_catalog()
    bank = SoundBank(catalog, "train")
    scenes = [sample_scene(catalog, "train", index) for index in range(clips)]
    with tempfile.TemporaryDirectory() as folder:
        write_stamps(Path(folder), seed=7, test=clips, video=False, workers=machine.threads)
        root = Path(folder) / "Multi-sources"
        records = read_set(root, "test")
        dataset = ClipDataset(list(records) * passes, class_names(root), ClipSpec())

        def read(number: int) -> None:
            for _ in DataLoader(dataset, batch_size=4, num_workers=number, collate_fn=collate):
                pass

        def render() -> None:
            for scene in scenes:
                render_clip(scene, bank, ClipSpec())

        drawn, alone, *with_workers = seconds(
            machine, render, lambda: read(0), *(lambda number=number: read(number) for number in workers)
        )
    rates = [[len(dataset) / spent for spent in turns] for turns in (alone, *with_workers)]
    made = [clips / spent for spent in drawn]
    yield row("scenes", made, rates[0], "clips read from files", machine, "clips/s", more_is_better=True)
    for number, found in zip(workers, rates[1:], strict=True):
        yield row(f"loader-{number}", found, rates[0], "no workers", machine, "clips/s", more_is_better=True)
