"""Parts of the web page: replaced audio, limits of a video, the table of words, and the command that starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from clip_maker import make_clip, tone
from gradio_client import Client, handle_file

import icf_avs
import icf_avs.__main__ as cli
from icf_avs.errors import UserError
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe
from icf_avs.results import FrameMask
from icf_avs.serve.audio_override import noise, of_clip, silence
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference
from icf_avs.serve.timeline import timeline_html

pytestmark = pytest.mark.full
LIMITS = Limits(max_mb=1, max_seconds=6)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five seconds of a soft tone, and two seconds of a loud one."""
    folder = tmp_path_factory.mktemp("videos")
    long = make_clip(folder / "long.mp4", seconds=5, sound=tone(5) / 3)
    return long, make_clip(folder / "short.mp4", seconds=2, sound=tone(2))


@pytest.mark.parametrize(("rate", "layout"), [(16_000, None), (44_100, "stereo")])
def test_replaced_audio(videos, rate, layout):
    """As long as the video; noise as loud as its audio and white; a shorter clip looped."""
    long, short = map(probe, videos)
    for seconds, sound in ((5, silence(long)), (5, noise(long)), (5, of_clip(long, short)), (2, of_clip(short, long))):
        blocks = list(sound(rate, layout))
        assert max(block.shape[1] for block in blocks) <= rate and (not layout or {*map(len, blocks)} == {2})
        assert sum(block.shape[1] for block in blocks) == pytest.approx(seconds * rate, abs=2)
    sounds = (None, silence(long), noise(long), of_clip(long, short))
    own, silent, white, looped = (AudioWindows(long, sound=sound).read(0, 80_000) for sound in sounds)
    assert not silent.any() and white.std() == pytest.approx(own.std(), rel=0.03)
    assert abs(np.corrcoef(white[1:], white[:-1])[0, 1]) < 0.02
    np.testing.assert_allclose(looped[:30_000], AudioWindows(short).read(0, 30_000), atol=1e-6)
    assert looped.reshape(10, 8_000).std(axis=1).min() > 0.1  # the tone never stops


def test_refused_videos_give_a_one_line_error(videos, tmp_path):
    long, segmenter = videos[0], icf_avs.load("stamps")
    soundless = make_clip(tmp_path / "soundless.mp4", seconds=1)
    (tmp_path / "store").mkdir()
    for video, limits, options, line in (
        (long, Limits(max_seconds=3), {}, "long.mp4: lasts 5 s; this page takes 3 s at most"),
        (long, Limits(max_mb=0), {}, "MB; this page takes 0 MB at most"),
        (long, Limits(work_seconds=0), {}, "long.mp4: took longer than 0 s"),
        (soundless, LIMITS, {}, "soundless.mp4: has no sound"),
        (long, LIMITS, {"audio_mode": "clip"}, "no other clip yet"),
        (long, LIMITS, {"audio_mode": "clip", "other": soundless}, "soundless.mp4: has no sound"),
    ):
        with pytest.raises(UserError) as error:
            run_inference(segmenter, video, tmp_path / "store", limits, **options)
        assert line in str(error.value) and str(video.parent) not in str(error.value)
    assert os.listdir(tmp_path / "store") == []


def test_the_timeline_escapes_words_and_shows_the_most_probable():
    heard = ("<img src=x>", 0.95), *((f"word{number:02d}", 0.9 - number / 100) for number in range(20))
    page = timeline_html([FrameMask(0, 0.0, 1.0, 0.5, 0.001, 0.9, heard, {})])
    assert "<img" not in page and "&lt;img src=x&gt;" in page and ">95</td>" in page and ">&lt;1</td>" in page
    assert "word10" in page and "word11" not in page  # at most twelve rows


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "icf: interrupted\n"), (signal.SIGTERM, 0, "")]
)
def test_a_terminated_server_leaves_no_files(videos, tmp_path, number, code, line):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # The server prints every host name it looks up, apart from this machine's.
    program = (
        "import os, signal, sys, socket, icf_avs.__main__ as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background process would ignore it
        "asked, real = set(), socket.getaddrinfo\n"
        "socket.getaddrinfo = lambda host, *rest, **options: asked.add(str(host)) or real(host, *rest, **options)\n"
        "code = cli.main(sys.argv[1:])\nprint(sorted(asked - {'127.0.0.1', 'localhost'}), flush=True)\nos._exit(code)"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--checkpoint", "stamps", "--port", str(port), "--max-seconds", "9"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert server.stdout.readline() == f"the page is at http://127.0.0.1:{port}/ (end it with Ctrl+C)\n"
    visitor = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=False)
    job = visitor.submit(handle_file(videos[0]), api_name="/listen")
    while job.status().code.name not in ("PROCESSING", "PROGRESS", "FINISHED"):
        time.sleep(0.01)
    server.send_signal(number)
    out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err) == (code, "[]\n", line)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host", "192.0.2.1"])
def test_an_unavailable_address_gives_a_one_line_error(host, capfd):
    """A taken port, and addresses of other machines: no additional error from the web server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--host", host, "--port", str(port), "--checkpoint", "stamps"]) == 2
    printed = capfd.readouterr()
    assert f"{host}:{port}: not available; choose another --port, or a --host of this machine" in printed.err
    assert printed.err.count("\n") == 1 and not printed.out
