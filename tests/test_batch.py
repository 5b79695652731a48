"""Many videos: several real processes, one of them killed, write the same bytes as single calls."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from clip_maker import click, make_clip, tone

import icf_avs
from icf_avs.batch.command import corpus_command
from icf_avs.batch.job import JobSettings, build_settings, segment_job
from icf_avs.batch.manifest import read_manifest
from icf_avs.batch.worker_pool import run_processes
from icf_avs.errors import UserError
from icf_avs.types import Missing

pytestmark = pytest.mark.full

THRESHOLD = 1e-4  # low enough that the shipped model marks something in unfamiliar clips
SETTINGS = JobSettings("stamps", "", 1.0, THRESHOLD, False, None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Folder of three videos, and the segmentation.json of each one segmented alone."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "day").mkdir()
    make_clip(root / "day" / "a.mp4", seconds=2, sound=tone(2))
    make_clip(root / "b, c.mp4", seconds=2, sound=click(2, at=0.5))
    make_clip(root / "long.mp4", seconds=12, sound=tone(12))
    segmenter, alone = icf_avs.load("stamps"), {}
    for name, fps in (("day/a.mp4", 1.0), ("b, c.mp4", 2.0), ("long.mp4", 1.0)):
        folder = segmenter.segment(root / name, root / "alone", fps, THRESHOLD).folder
        alone[name] = (folder / "segmentation.json").read_bytes()
    assert any(frame["area"] for text in alone.values() for frame in json.loads(text)["frames"])
    return root, alone


@pytest.fixture(scope="module")
def settings():
    return build_settings("stamps", 1.0, THRESHOLD, False, None)


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


def contents(out: Path) -> tuple[dict[str, bytes], list[list[str]], list[str]]:
    """The documents of an output folder, the rows of its report, and the names in it."""
    documents = {str(path.parent.relative_to(out)): path.read_bytes() for path in out.rglob("segmentation.json")}
    with open(out / "failures.csv", newline="") as file:
        heading, *failures = csv.reader(file)
    assert heading == ["video", "error"]
    return documents, failures, sorted(os.listdir(out))


def test_rows_become_jobs(tmp_path):
    lines = " fps,video,out,audio_track", ',"a, b.mp4",,', "", " 2.5,../x/c.mkv,day1/c , 2"
    path, out = write(tmp_path / "m.csv", *lines, encoding="utf-8-sig"), tmp_path / "out"
    first, second = read_manifest(path, out, SETTINGS)
    assert (first.video, first.folder, first.settings) == (tmp_path / "a, b.mp4", out / "a, b", SETTINGS)
    assert (second.video, second.folder) == (tmp_path.parent / "x" / "c.mkv", out / "day1" / "c")
    assert second.settings == replace(SETTINGS, fps=2.5, audio_track=2)


INVALID = {  # tables, and a part of the error
    "": "no column `video`", "video\n": "lists no video", None: "cannot be read", b"video\n\xff.mp4\n": "not UTF-8",
    "video,video\na.mp4,b.mp4\n": "2 columns `video`", "video,fsp\na.mp4,2\n": "column `fsp`; did you mean fps\\?",
    "video,fps\n,1\n": "line 2: names no video", "video\na.mp4,1\n": "line 2: has 2 cells",
    "video\n..\x00\n": "line 2", "video,audio_track\n\na.mp4,0\n": "line 3: '0': want an integer",
    'video\n"a.mp4\n': "is not CSV", "video\nmine.mp4\n": "holds something other",
    "video\na.mp4\nsub/A.mkv\n": "line 3: would write the same folder as line 2",
    "video,out\na.mp4,x/y\nb.mp4,x\n": "inside the folder of line 3",
    "video,out\na.mp4,../x\n": "below --out", "video,out\na.mp4,.\n": "below --out",
    "video,out\na.mp4,failures.csv\n": "the same folder as the report",
}  # fmt: skip


@pytest.mark.parametrize("text", INVALID)
def test_invalid_manifests_are_refused(text, tmp_path):
    (tmp_path / "out" / "mine").mkdir(parents=True)
    path = tmp_path / "m.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=INVALID[text]) as raised:
        read_manifest(path, tmp_path / "out", SETTINGS)
    assert "m.csv" in str(raised.value) or "mine" in str(raised.value)


def test_two_processes_equal_one_and_a_second_run_only_does_the_rest(corpus, settings, tmp_path, capsys):
    root, alone = corpus
    out, none = tmp_path / "out", root / "none.mp4"
    path = write(root / "two.csv", "video,fps,out", "day/a.mp4,,", '"b, c.mp4",2,sub/b', "none.mp4,,")
    with pytest.raises(UserError, match="1 of 3 videos failed"):
        corpus_command(path, out, settings, jobs=2)
    documents, failures, names = contents(out)
    assert documents == {"a": alone["day/a.mp4"], "sub/b": alone["b, c.mp4"]}
    assert failures == [["none.mp4", f"{none}: no such file; check the path"]] and names == ["a", "failures.csv", "sub"]
    assert "3 videos, 2 done now, 0 before" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != "failures.csv"}

    shutil.copy(root / "day" / "a.mp4", none)
    try:
        corpus_command(path, out, settings, jobs=1)
    finally:
        none.unlink()
    assert "3 videos, 1 done now, 2 before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    single = json.loads(alone["day/a.mp4"])
    single["video"]["file"], single["source"]["path"] = "none.mp4", str(none)
    documents, failures, _ = contents(out)
    assert json.loads(documents["none"]) == single and not failures


def test_which_results_count_as_done(corpus, settings, tmp_path):
    video = shutil.copy(corpus[0] / "day" / "a.mp4", tmp_path / "a.mp4")
    (job,) = read_manifest(write(tmp_path / "m.csv", "video", "a.mp4"), tmp_path / "out", settings)
    lacking = replace(settings, missing=(Missing("the ears", "hears less"),))

    def is_done(**changes):
        return replace(job, settings=replace(settings, **changes)).is_done()

    assert not job.is_done()
    assert segment_job(job, tmp_path) is None and job.is_done()
    for change in ({"fps": 2.0}, {"threshold": 0.3}, {"semantic": True}, {"audio_track": 1}, {"digest": "0"}):
        assert not is_done(**change), change
    assert is_done(checkpoint="moved.safetensors") and is_done(device="cuda")
    assert replace(job, settings=lacking).is_done(), "a whole result stays when a part goes missing"
    record = job.folder / "made_from.json"
    made = record.read_text()
    record.write_text(json.dumps(json.loads(made) | {"without": ["the ears"]}))
    assert not job.is_done() and replace(job, settings=lacking).is_done()
    record.write_text(made)
    status = os.stat(video)
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not job.is_done()
    assert segment_job(job, tmp_path) is None and job.is_done()  # in place of the earlier result
    with open(video, "ab") as file:
        file.write(b"\0")
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert not job.is_done()
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "m.csv", "out"]


def await_mask(out: Path, number: int) -> None:
    """Wait until a process of a run has written this mask of a video."""
    deadline = time.monotonic() + 300
    while not any(out.glob(f".icf-*/new/*/new/.icf-*/new/masks/{number:06d}.png")):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_process_loses_no_video(corpus, settings, tmp_path):
    root, alone = corpus
    out, killed = tmp_path / "out", []

    def kill_one_in_the_middle():
        await_mask(out, 3)
        (child,) = multiprocessing.active_children()
        child.kill()
        killed.append(child)

    killer = threading.Thread(target=kill_one_in_the_middle)
    killer.start()
    corpus_command(write(root / "long.csv", "video", "long.mp4", "day/a.mp4"), out, settings, jobs=1)
    killer.join()
    assert killed
    documents = {"long": alone["long.mp4"], "a": alone["day/a.mp4"]}
    assert contents(out) == (documents, [], ["a", "failures.csv", "long"])


def test_processes_that_cannot_load_the_model(corpus, tmp_path, capfd):
    path, without = write(corpus[0] / "x.csv", "video", "day/a.mp4"), replace(SETTINGS, checkpoint="none.safetensors")
    with pytest.raises(UserError, match="while they loaded the model"):
        list(run_processes(read_manifest(path, tmp_path, without), 2, tmp_path))


def test_a_killed_run_leaves_no_process_and_the_next_run_cleans_up(corpus, settings, tmp_path):
    root, _ = corpus
    out = tmp_path / "out"
    path = write(root / "killed.csv", "video", "long.mp4")
    line = f"segment --manifest {path} --out {out} --jobs 1 --threshold {THRESHOLD} --checkpoint stamps".split()
    run = subprocess.Popen([sys.executable, "-m", "icf_avs", *line], stderr=subprocess.PIPE)
    await_mask(out, 1)
    run.kill()
    run.communicate(timeout=30)  # until its worker has closed the pipe too
    assert [name[:5] for name in os.listdir(out)] == [".icf-"]
    corpus_command(write(root / "next.csv", "video", "day/a.mp4"), out, settings)
    assert sorted(os.listdir(out)) == ["a", "failures.csv"]


@pytest.mark.ray
def test_two_local_ray_workers_write_what_one_process_does(corpus, settings, tmp_path):
    root, alone = corpus
    path = write(root / "ray.csv", "video,fps", "day/a.mp4,", '"b, c.mp4",2', "none.mp4,", "long.mp4,")
    with pytest.raises(UserError, match="1 of 4 videos failed"):
        corpus_command(path, tmp_path / "out", settings, jobs=2, ray_address="local")
    documents, failures, names = contents(tmp_path / "out")
    assert documents == {Path(name).stem: text for name, text in alone.items()}
    assert [name for name, _ in failures] == ["none.mp4"] and not [name for name in names if name.startswith(".")]
