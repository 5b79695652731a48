"""Many videos: several real processes, one of them killed, write the same bytes as single calls."""

from __future__ import annotations

import csv
import hashlib
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
from tagger_weights import published_weights

import icf_avs
from icf_avs.batch.command import corpus_command
from icf_avs.batch.job import JobSettings, build_settings, cached_segmenter, segment_job
from icf_avs.batch.manifest import read_manifest
from icf_avs.batch.worker_pool import run_processes
from icf_avs.checkpoint.source import find_checkpoint
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


def one_job(path: Path, out: Path, settings: JobSettings):
    return read_manifest(write(path, "video", "day/a.mp4"), out, settings)[0]


def failures(out: Path) -> list[list[str]]:
    with open(out / "failures.csv", newline="") as file:
        return list(csv.reader(file))


def documents(out: Path) -> dict[str, bytes]:
    return {str(path.parent.relative_to(out)): path.read_bytes() for path in out.rglob("segmentation.json")}


def test_rows_become_jobs(tmp_path):
    path = write(
        tmp_path / "m.csv",
        " fps,video,out,audio_track", ',"a, b.mp4",,', "", " 2.5,../x/c.mkv,day1/c , 2",
        encoding="utf-8-sig",
    )  # fmt: skip
    first, second = read_manifest(path, tmp_path / "out", SETTINGS)
    assert (first.video, first.folder) == (tmp_path / "a, b.mp4", tmp_path / "out" / "a, b")
    assert (second.video, second.folder) == (tmp_path.parent / "x" / "c.mkv", tmp_path / "out" / "day1" / "c")
    assert first.settings == SETTINGS and second.settings == replace(SETTINGS, fps=2.5, audio_track=2)


INVALID = {  # tables, and a part of the error
    "": "no column `video`",
    "video,video\na.mp4,b.mp4\n": "2 columns `video`",
    "video\n": "lists no video",
    "video,fsp\na.mp4,2\n": "column `fsp`; did you mean fps\\?",
    "video,fps\n,1\n": "line 2: names no video",
    "video\n..\x00\n": "line 2",
    "video\na.mp4,1\n": "line 2: has 2 cells",
    "video,audio_track\n\na.mp4,0\n": "line 3: '0': want an integer",
    'video\n"a.mp4\n': "is not CSV",
    "video\na.mp4\nsub/A.mkv\n": "line 3: would write the same folder as line 2",
    "video,out\na.mp4,x/y\nb.mp4,x\n": "inside the folder of line 3",
    "video,out\na.mp4,../x\n": "below --out",
    "video,out\na.mp4,.\n": "below --out",
    "video,out\na.mp4,failures.csv\n": "the same folder as the report",
    "video\nmine.mp4\n": "holds something other",
    b"video\n\xff.mp4\n": "not UTF-8",
    None: "cannot be read",
}


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
    out = tmp_path / "out"
    lines = ["video,fps,out", "day/a.mp4,,", '"b, c.mp4",2,sub/b', "none.mp4,,"]
    path = write(root / "two.csv", *lines)
    with pytest.raises(UserError, match="1 of 3 videos failed"):
        corpus_command(path, out, settings, jobs=2)
    assert documents(out) == {"a": alone["day/a.mp4"], "sub/b": alone["b, c.mp4"]}
    assert failures(out) == [["video", "error"], ["none.mp4", f"{root / 'none.mp4'}: no such file; check the path"]]
    assert sorted(os.listdir(out)) == ["a", "failures.csv", "sub"]
    assert "3 videos, 2 done now, 0 before" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != "failures.csv"}

    shutil.copy(root / "day" / "a.mp4", root / "none.mp4")
    try:
        corpus_command(path, out, settings, jobs=1)
    finally:
        (root / "none.mp4").unlink()
    assert "3 videos, 1 done now, 2 before" in capsys.readouterr().out
    assert failures(out) == [["video", "error"]]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    single = json.loads(alone["day/a.mp4"])
    single["video"]["file"], single["source"]["path"] = "none.mp4", str(root / "none.mp4")
    assert json.loads((out / "none" / "segmentation.json").read_bytes()) == single


def test_which_results_count_as_done(corpus, settings, tmp_path):
    video = shutil.copy(corpus[0] / "day" / "a.mp4", tmp_path / "a.mp4")
    (job,) = read_manifest(write(tmp_path / "m.csv", "video", "a.mp4"), tmp_path / "out", settings)
    assert not job.is_done()
    assert segment_job(job, tmp_path) is None and job.is_done()
    for change in ({"fps": 2.0}, {"threshold": 0.3}, {"semantic": True}, {"audio_track": 1}, {"digest": "0"}):
        assert not replace(job, settings=replace(settings, **change)).is_done(), change
    for change in ({"checkpoint": "moved.safetensors"}, {"device": "cuda"}):
        assert replace(job, settings=replace(settings, **change)).is_done(), change
    record = job.folder / "made_from.json"
    made, lacking = json.loads(record.read_text()), replace(settings, missing=(Missing("the ears", "hears less"),))
    assert replace(job, settings=lacking).is_done(), "a whole result stays when a part goes missing"
    record.write_text(json.dumps(made | {"without": ["the ears"]}))
    assert not job.is_done() and replace(job, settings=lacking).is_done()
    record.write_text(json.dumps(made))
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
    assert killed and documents(out) == {"long": alone["long.mp4"], "a": alone["day/a.mp4"]}
    assert sorted(os.listdir(out)) == ["a", "failures.csv", "long"] and failures(out) == [["video", "error"]]


def test_processes_that_cannot_load_the_model(corpus, tmp_path, capfd):
    job = one_job(corpus[0] / "x.csv", tmp_path, replace(SETTINGS, checkpoint="none.safetensors"))
    with pytest.raises(UserError, match="while they loaded the model"):
        list(run_processes([job], 2, tmp_path))


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
    assert segment_job(one_job(root / "next.csv", out, settings), tmp_path) is None
    corpus_command(root / "next.csv", out, settings)
    assert sorted(os.listdir(out)) == ["a", "failures.csv"]


@pytest.mark.ray
def test_two_local_ray_workers_write_what_one_process_does(corpus, settings, tmp_path):
    root, alone = corpus
    path = write(root / "ray.csv", "video,fps", "day/a.mp4,", '"b, c.mp4",2', "none.mp4,", "long.mp4,")
    with pytest.raises(UserError, match="1 of 4 videos failed"):
        corpus_command(path, tmp_path / "out", settings, jobs=2, ray_address="local")
    assert documents(tmp_path / "out") == {Path(name).stem: text for name, text in alone.items()}
    assert [line[0] for line in failures(tmp_path / "out")] == ["video", "none.mp4"]
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_words_apply_to_a_whole_manifest(corpus, tmp_path, monkeypatch):
    """Words unknown to the model are refused before any work; other words are part of a job's record."""
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(published_weights().parent))
    with pytest.raises(UserError, match="did you mean guitar"):
        build_settings("natural", 1.0, 0.5, False, None, "gitar")
    dogs, every = (build_settings("natural", 1.0, 0.5, False, None, words) for words in ("barking; violins", None))
    jobs = [one_job(corpus[0] / "words.csv", tmp_path, each) for each in (dogs, every)]
    assert segment_job(jobs[0], tmp_path) is None and [job.is_done() for job in jobs] == [True, False]
    made = json.loads((tmp_path / "a" / "segmentation.json").read_text())["made_with"]
    digest = hashlib.sha256(find_checkpoint("natural")[0].read_bytes()).hexdigest()
    assert made.pop("versions").keys() == {"icf-avs", "torch", "av"}
    assert made == {
        "checkpoint": {"name": "natural", "sha256": digest}, "threshold": 0.5, "without": [],
        "encoders": {"visual": "efficientnet-lite0-evidence", "audio": "efficientat"}, "words": ["dog", "violin"],
    }  # fmt: skip
    cached_segmenter.cache_clear()
