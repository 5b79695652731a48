"""The web page: replaced audio, limits of a video, results, refused requests, a session in a real browser, and the
command that starts it.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from clip_maker import make_clip, tone
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import icf_avs
import icf_avs.__main__ as cli
from icf_avs.errors import UserError
from icf_avs.inference.word_prompts import LIST
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe
from icf_avs.results import FrameMask
from icf_avs.serve.audio_override import noise, of_clip, silence
from icf_avs.serve.command import serving, sweep
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference
from icf_avs.serve.timeline import timeline_html
from icf_avs.types import ClipSpec
from tools.make_picture import write_scene

pytestmark = pytest.mark.full

LIMITS = Limits(max_mb=1, max_seconds=6)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
UPLOAD, CALLS = "/gradio_api/upload", ("/gradio_api/queue/join", "/gradio_api/run/predict")


@pytest.fixture(scope="module")
def videos(tmp_path_factory, catalog):
    """A fire truck that sounds in 3 of 5 seconds; a text file; a soft tone of 5 s; a loud one of 2 s."""
    folder = tmp_path_factory.mktemp("videos")
    write_scene(folder / "truck.mp4", ClipSpec())
    (folder / "<b>text.mp4").write_text("this is no video")
    long = make_clip(folder / "long.mp4", seconds=5, sound=tone(5) / 3)
    return folder / "truck.mp4", folder / "<b>text.mp4", long, make_clip(folder / "short.mp4", sound=tone(2))


@pytest.fixture(scope="module")
def site():
    """Address and upload folder of a running page."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving(icf_avs.load("stamps"), "127.0.0.1", port, LIMITS) as (address, store):
        yield address, store
    assert not store.exists() and "GRADIO_TEMP_DIR" not in os.environ


@pytest.fixture(scope="module")
def client(site, tmp_path_factory):
    return Client(site[0], verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def ask(site, method, path, body=None, headers=FORM):
    """Send a request without normalising its path; dictionaries are sent as JSON."""
    connection = http.client.HTTPConnection(urllib.parse.urlparse(site[0]).netloc, timeout=20)
    if isinstance(body, dict):
        body, headers = json.dumps(body), {"Content-Type": "application/json"}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_upload_and_result(client, videos):
    job, told = client.submit(handle_file(videos[0]), api_name="/listen"), []
    while not job.done():
        told += job.status().progress_data or ()
        time.sleep(0.005)
    assert any(0 < unit.progress < 1 and unit.desc.endswith(" of 5 seconds") for unit in told)
    summary, overlay, words, pictures, masks, document = job.result()
    assert summary == "Segmented in 3 of 5 seconds. Tags: fire-truck." and words.count(">fire-truck<") == 1
    assert [picture["caption"] for picture in pictures][::4] == ["0:00 fire-truck", "0:04 nothing"]
    assert probe(overlay).duration == pytest.approx(5, abs=0.1)
    document = json.loads(Path(document["value"]).read_text())
    assert set(document["source"]) == {"bytes", "sha256"}  # without the server's path
    with zipfile.ZipFile(masks["value"]) as archive:
        areas = [(np.asarray(Image.open(archive.open(name))) > 0).mean() for name in archive.namelist()]
    np.testing.assert_allclose(areas, [frame["area"] for frame in document["frames"]], atol=1e-5)


def test_settings_apply_and_old_results_are_deleted(client, site, videos):
    summary, *_, pictures, _, document = client.predict(handle_file(videos[0]), "", 2, 0.9, api_name="/listen")
    assert " of 10 masks. Tags: fire-truck" in summary and pictures[1]["caption"] == "0:00.50 fire-truck"
    assert json.loads(Path(document["value"]).read_text())["made_with"]["threshold"] == 0.9
    sweep(site[1], 3600.0)
    assert list(site[1].glob("answer-*"))
    sweep(site[1], -1.0)
    assert not list(site[1].glob("answer-*"))


@pytest.mark.parametrize(
    ("error", "told"),
    [(None, "not a video"), (RuntimeError("secret of the server"), "It is not your fault"),
     (UserError(f"no such word is known; did you mean guitar? {LIST}"), "the page lists what can be asked for")],
)  # fmt: skip
def test_error_messages_hold_no_path_traceback_or_markup(error, told, client, site, videos, monkeypatch):
    if error is not None:
        monkeypatch.setattr("icf_avs.serve.page.run_inference", Mock(side_effect=error))
    with pytest.raises(AppError, match=told) as shown:
        client.predict(handle_file(videos[1]), api_name="/listen")
    assert not [word for word in ("secret", "\n", "<", str(site[1])) if word in str(shown.value)]
    with pytest.raises(AppError, match="more than 1000 characters of words"):
        client.predict(handle_file(videos[1]), "word, " * 300, api_name="/listen")


def test_uploads_too_large_or_to_a_full_folder_are_refused(site):
    status, answered, _ = ask(site, "POST", UPLOAD, b"x" * (LIMITS.upload_bytes + 100_000))
    assert status == 413 and b"takes 1 MB at most" in answered
    assert ask(site, "POST", UPLOAD, headers={"Transfer-Encoding": "chunked"})[0] == 411
    with (site[1] / "hog").open("wb") as file:
        file.truncate(LIMITS.stored_bytes)
    try:
        assert ask(site, "POST", UPLOAD, b"x")[0] == 507
    finally:
        (site[1] / "hog").unlink()


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A file outside the page's folder, in the server's working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("the secret")
    return tmp_path / "secret.txt"


def test_no_file_outside_its_folder_is_served(site, secret):
    store, up = site[1], "../" * 12
    (store / "mine.txt").write_text("mine")
    assert ask(site, "GET", f"/gradio_api/file={store}/mine.txt")[:2] == (200, b"mine")
    os.symlink(secret, store / "link.txt")
    targets = (
        f"{secret}", f"{store}/{up}{secret}", f"{store}/./..{secret}", "./secret.txt", f"//{secret}",
        f"{store}/link.txt", f"file://{secret}", f"{store}x/../{secret}",
    )  # fmt: skip
    routes = ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/gradio_api/proxy=",
              "/svelte/", "/gradio_api/custom_component/x/client/component/", "/")  # fmt: skip
    ways = (str, lambda path: "".join(f"%{ord(c):02X}" for c in path),
            lambda path: urllib.parse.quote(urllib.parse.quote(path, safe=""), safe=""),
            lambda path: path.replace("../", "..%2f"), lambda path: path.replace("../", "..\\"),
            lambda path: path.replace("/", "%c0%af"), lambda path: path + "%00.png")  # fmt: skip
    for route, way, target in itertools.product(routes, ways, targets):
        status, body, _ = ask(site, "GET", route + way(target))
        assert b"the secret" not in body and status in (307, 400, 403, 404), (status, route, way(target))
    os.unlink(store / "link.txt")


def test_calls_accept_only_uploaded_files(site, secret):
    for path in (str(secret), f"{site[1]}/../{secret}", "http://127.0.0.1:9/x.mp4", "secret.txt", 5, ["x"]):
        body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 2, "session_hash": "a"}
        for route in CALLS:
            assert ask(site, "POST", route, body)[:2] == (400, b"give a file that was uploaded to this page"), path
    for text in (b"[" * 100_000, b" " * 1_100_000):
        assert ask(site, "POST", CALLS[0], text)[0] == 400


def test_the_queue_cannot_be_bypassed(site, videos):
    path = shutil.copy(videos[0], site[1])
    parts = json.loads(ask(site, "GET", "/config")[1])["dependencies"]
    queued = [entry["id"] for entry in parts if entry["queue"] is not False]
    assert len(queued) == 4
    for index in queued:
        data = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]
        status, answered, _ = ask(site, "POST", CALLS[1], {"data": data, "session_hash": "a", "fn_index": index})
        assert status >= 400 and b"Segmented" not in answered


@pytest.mark.parametrize(("rate", "layout"), [(16_000, None), (44_100, "stereo")])
def test_replaced_audio(videos, rate, layout):
    """As long as the video; noise as loud as its audio and white; a shorter clip looped."""
    long, short = map(probe, videos[2:])
    for seconds, sound in ((5, silence(long)), (5, noise(long)), (5, of_clip(long, short)), (2, of_clip(short, long))):
        blocks = list(sound(rate, layout))
        assert max(block.shape[1] for block in blocks) <= rate and (not layout or {*map(len, blocks)} == {2})
        assert sum(block.shape[1] for block in blocks) == pytest.approx(seconds * rate, abs=2)
    sounds = (None, noise(long), of_clip(long, short))
    own, white, looped = (AudioWindows(long, sound=sound).read(0, 80_000) for sound in sounds)
    assert white.std() == pytest.approx(own.std(), rel=0.03) and abs(np.corrcoef(white[1:], white[:-1])[0, 1]) < 0.02
    np.testing.assert_allclose(looped[:30_000], AudioWindows(short).read(0, 30_000), atol=1e-6)
    assert looped.reshape(10, 8_000).std(axis=1).min() > 0.1  # the tone never stops


def test_refused_videos_give_a_one_line_error(videos, tmp_path):
    long, segmenter, store = videos[2], icf_avs.load("stamps"), tmp_path / "store"
    soundless = make_clip(tmp_path / "soundless.mp4", seconds=1)
    store.mkdir()
    for video, limits, options, line in (
        (long, Limits(max_seconds=3), {}, "long.mp4: lasts 5 s; this page takes 3 s at most"),
        (long, Limits(max_mb=0), {}, "MB; this page takes 0 MB at most"),
        (long, Limits(work_seconds=0), {}, "long.mp4: took longer than 0 s"),
        (soundless, LIMITS, {}, "soundless.mp4: has no sound"),
        (long, LIMITS, {"audio_mode": "clip"}, "no other clip yet"),
        (long, LIMITS, {"audio_mode": "clip", "other": soundless}, "soundless.mp4: has no sound"),
    ):
        with pytest.raises(UserError) as error:
            run_inference(segmenter, video, store, limits, **options)
        assert line in str(error.value) and str(video.parent) not in str(error.value)
    assert os.listdir(store) == []


def test_the_timeline_escapes_words_and_shows_the_most_probable():
    heard = ("<img src=x>", 0.95), *((f"word{number:02d}", 0.9 - number / 100) for number in range(20))
    page = timeline_html([FrameMask(0, 0.0, 1.0, 0.5, 0.001, 0.9, heard, {})])
    assert "<img" not in page and "&lt;img src=x&gt;" in page and ">95</td>" in page and ">&lt;1</td>" in page
    assert "word10" in page and "word11" not in page  # at most twelve rows


@pytest.mark.parametrize(("number", "code", "line"), [("SIGINT", 130, "icf: interrupted\n"), ("SIGTERM", 0, "")])
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
        [sys.executable, "-c", program, *f"serve --checkpoint stamps --port {port} --max-seconds 9".split()],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert server.stdout.readline() == f"the page is at http://127.0.0.1:{port}/ (end it with Ctrl+C)\n"
    visitor = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=False)
    job = visitor.submit(handle_file(videos[2]), api_name="/listen")
    while job.status().code.name not in ("PROCESSING", "PROGRESS", "FINISHED"):
        time.sleep(0.01)
    server.send_signal(signal.Signals[number])
    out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err, os.listdir(tmp_path)) == (code, "[]\n", line, [])


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host", "192.0.2.1"])
def test_an_unavailable_address_gives_a_one_line_error(host, capfd):
    """A taken port, and addresses of other machines: no additional error from the web server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--host", host, "--port", str(port), "--checkpoint", "stamps"]) == 2
    printed = capfd.readouterr()
    assert f"{host}:{port}: not available; choose another --port, or a --host of this machine" in printed.err
    assert printed.err.count("\n") == 1 and not printed.out


@pytest.mark.browser
def test_in_a_browser(site, videos, tmp_path):
    from playwright import sync_api

    assert CHROMIUM, "no Chromium on this machine: apt-get install chromium, or CHROMIUM=path"
    done = "([id, words]) => document.querySelector(`#${id}-summary`).innerText.includes(words)"
    hosts, errors = set(), []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] * (os.geteuid() == 0))
        page = browser.new_page(accept_downloads=True)
        page.set_default_timeout(120_000)  # on a busy machine
        page.on("request", lambda request: hosts.add(urllib.parse.urlparse(request.url.removeprefix("blob:")).netloc))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(site[0])
        page.set_input_files("#video input[type=file]", videos[0])
        page.wait_for_function(done, arg=["own", "Segmented in 3 of 5"])
        assert "fire-truck" in page.inner_text("#own-words") and page.locator("#own-pictures img").count() >= 5
        page.get_by_label("Another clip's sound").check()
        page.wait_for_function(done, arg=["changed", "Choose"])
        page.set_input_files("#other input[type=file]", videos[0])
        page.wait_for_function(done, arg=["changed", "Another clip's sound. Segmented in 3 of 5"])
        with page.expect_download() as download:
            page.click("#own-masks")
        download.value.save_as(tmp_path / "masks.zip")
        assert len(zipfile.ZipFile(tmp_path / "masks.zip").namelist()) == 5
        page.locator("#video").get_by_label("Clear").click()
        page.wait_for_function(done, arg=["own", "No video yet"])
        page.set_input_files("#video input[type=file]", videos[1])
        page.get_by_text("not a video that can be read").first.wait_for()
        browser.close()
    assert hosts == {urllib.parse.urlparse(site[0]).netloc} and not errors
