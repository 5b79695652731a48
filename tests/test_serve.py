"""The web page: results, refused requests, and a session in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clip_maker import make_clip, tone
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import icf_avs
import icf_avs.__main__ as cli
from icf_avs.config import EvidenceConfig
from icf_avs.errors import UserError
from icf_avs.inference.segment import segment_video
from icf_avs.inference.word_prompts import LIST
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe
from icf_avs.results import FrameMask
from icf_avs.serve.audio_override import noise, of_clip, silence
from icf_avs.serve.command import serving, sweep
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference
from icf_avs.serve.timeline import timeline_html
from tools.make_picture import write_scene

pytestmark = pytest.mark.full

LIMITS = Limits(max_mb=1, max_seconds=6)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def segmenter():
    return icf_avs.load("stamps")


@pytest.fixture(scope="module")
def scene(tmp_path_factory, segmenter, catalog):
    """The fire truck of the README, which sounds in the first three of five seconds."""
    video = tmp_path_factory.mktemp("scene") / "truck.mp4"
    write_scene(video, segmenter.predictor.spec)
    return video


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """Two seconds with a tone, which belongs to no class."""
    return make_clip(tmp_path_factory.mktemp("quiet") / "tone.mp4", seconds=2, sound=tone(2))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "<b>text.mp4"
    path.write_text("this is no video")
    return path


@pytest.fixture(scope="module")
def site(segmenter):
    """Address and upload folder of a running page."""
    with serving(segmenter, "127.0.0.1", free_port(), LIMITS) as (address, store):
        yield address, store
    assert not store.exists() and "GRADIO_TEMP_DIR" not in os.environ


@pytest.fixture(scope="module")
def client(site, tmp_path_factory):
    return Client(site[0], verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def ask(site, method, path, body=None, headers=None):
    """Send a request without normalising its path."""
    connection = http.client.HTTPConnection(urllib.parse.urlparse(site[0]).netloc, timeout=20)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    return response.status, response.read(), response.headers


# Replaced audio


@pytest.mark.parametrize(("rate", "layout", "channels"), [(16_000, None, 1), (44_100, "stereo", 2)])
def test_replaced_audio_is_as_long_as_the_video(scene, quiet, rate, layout, channels):
    long, short = probe(scene), probe(quiet)
    sounds = [(5, silence(long)), (5, noise(long)), (5, of_clip(long, short)), (2, of_clip(short, long))]
    for seconds, sound in sounds:
        blocks = list(sound(rate, layout))
        assert max(block.shape[1] for block in blocks) <= rate
        if layout is not None:
            assert {len(block) for block in blocks} == {channels}
        assert sum(block.shape[1] for block in blocks) == pytest.approx(seconds * rate, abs=2)


def test_noise_is_as_loud_as_the_video_and_silence_is_silent(scene):
    info = probe(scene)
    own = AudioWindows(info).read(0, 80_000)
    given = AudioWindows(info, sound=noise(info)).read(0, 80_000)
    assert np.sqrt(np.mean(given**2)) == pytest.approx(np.sqrt(np.mean(own**2)), rel=0.03)
    assert abs(np.corrcoef(given[1:], given[:-1])[0, 1]) < 0.02  # white
    assert not AudioWindows(info, sound=silence(info)).read(0, 80_000).any()


def test_a_shorter_clip_is_looped(scene, quiet):
    wave = AudioWindows(probe(quiet)).read(0, 32_000)
    given = AudioWindows(probe(scene), sound=of_clip(probe(scene), probe(quiet))).read(0, 80_000)
    np.testing.assert_allclose(given[:30_000], wave[:30_000], atol=1e-6)
    assert given.reshape(10, 8_000).std(axis=1).min() > 0.1  # the tone never stops


# Results


def test_results_with_original_audio(segmenter, scene, tmp_path):
    told = []
    found = run_inference(segmenter, scene, tmp_path, LIMITS, progress=lambda done, total: told.append(done / total))
    assert found.summary == "Segmented in 3 of 5 seconds. Tags: fire-truck."
    assert found.words.count(">fire-truck<") == 1
    assert [caption for _, caption in found.pictures][::4] == ["0:00 fire-truck", "0:04 nothing"]
    assert set(json.loads(found.document.read_text())["source"]) == {"bytes", "sha256"}  # without the server's path
    assert told == sorted(told) and told[-1] == 1
    document = json.loads(found.document.read_text())
    with zipfile.ZipFile(found.masks) as archive:
        assert archive.namelist() == [f"{index:06d}.png" for index in range(5)]
        areas = [(np.asarray(Image.open(archive.open(name))) > 0).mean() for name in archive.namelist()]
    np.testing.assert_allclose(areas, [frame["area"] for frame in document["frames"]], atol=1e-5)
    assert max(Image.open(path).width for path, _ in found.pictures) == 320
    assert all(path.is_relative_to(tmp_path) for path in (found.overlay, found.masks, found.document))


def test_results_with_replaced_audio(segmenter, scene, quiet, tmp_path):
    assert "Segmented in 0 of 5" in run_inference(segmenter, scene, tmp_path, LIMITS, "muted").summary
    noise = json.loads(run_inference(segmenter, scene, tmp_path, LIMITS, "noise").document.read_text(encoding="utf-8"))
    areas = [frame["area"] for frame in noise["frames"]]
    assert sum(area > 0 for area in areas) <= 1 and max(areas) < 0.001  # a few pixels
    own = run_inference(segmenter, scene, tmp_path, LIMITS, "clip", scene)
    assert "Segmented in 3 of 5" in own.summary
    found = run_inference(segmenter, scene, tmp_path, LIMITS, "clip", quiet)
    wave = AudioWindows(probe(found.overlay)).read(0, 80_000)  # the overlay plays the replaced audio: 440 Hz to the end
    assert abs(np.fft.rfft(wave)).argmax() * 16_000 / 80_000 == pytest.approx(440, abs=1)
    muted = run_inference(segmenter, scene, tmp_path, LIMITS, "muted")
    assert np.abs(AudioWindows(probe(muted.overlay)).read(0, 80_000)).max() < 1e-4


def test_replacing_audio_by_itself_changes_nothing(segmenter, scene):
    info = probe(scene)
    own = segment_video(segmenter.predictor, scene)
    given = segment_video(segmenter.predictor, scene, sound=of_clip(info, info))
    assert [frame.run_lengths for frame in own.frames] == [frame.run_lengths for frame in given.frames]


def test_refused_videos_give_a_one_line_error(segmenter, scene, quiet, text, tmp_path):
    soundless = make_clip(tmp_path / "soundless.mp4", seconds=1)
    store = tmp_path / "store"
    store.mkdir()
    cases = [
        (scene, Limits(max_seconds=3), {}, "truck.mp4: lasts 5 s; this page takes 3 s at most"),
        (scene, Limits(max_mb=0), {}, "MB; this page takes 0 MB at most"),
        (scene, Limits(work_seconds=0), {}, "truck.mp4: took longer than 0 s"),
        (soundless, LIMITS, {}, "soundless.mp4: has no sound"),
        (text, LIMITS, {}, "<b>text.mp4: not a video"),
        (scene, LIMITS, {"audio_mode": "clip"}, "no other clip yet"),
        (scene, LIMITS, {"audio_mode": "clip", "other": soundless}, "soundless.mp4: has no sound"),
        (scene, LIMITS, {"audio_mode": "clip", "other": text}, "<b>text.mp4: not a video"),
    ]
    for video, limits, options, line in cases:
        with pytest.raises(UserError) as error:
            run_inference(segmenter, video, store, limits, **options)
        assert line in str(error.value)
        assert str(tmp_path) not in str(error.value) and str(video.parent) not in str(error.value)
    assert os.listdir(store) == []


def test_the_timeline_escapes_words_and_shows_the_most_probable():
    def frame(index, heard, area):
        return FrameMask(
            index, float(index), index + 1.0, index + 0.5, area, 0.9, heard, {"size": [2, 2], "counts": ""}
        )

    many = tuple((f"word{number:02d}", 0.9 - number / 100) for number in range(20))
    page = timeline_html([frame(0, (("<img src=x>", 0.95),), 0.25), frame(1, many, 0.001)])
    assert "<img" not in page and "&lt;img src=x&gt;" in page
    assert "word10" in page and "word11" not in page  # at most twelve rows
    assert ">95</td>" in page and ">25</td>" in page and "><1</td>" not in page and ">&lt;1</td>" in page


# The page over HTTP


def test_upload_and_result_over_http(client, site, scene, quiet):
    job = client.submit(handle_file(scene), api_name="/listen")
    told = []
    while not job.done():
        told += job.status().progress_data or ()
        time.sleep(0.005)
    summary, overlay, words, pictures, masks, document = job.result()
    assert summary.startswith("Segmented in 3 of 5 seconds.") and "fire-truck" in words
    assert probe(overlay).duration == pytest.approx(5, abs=0.1) and len(pictures) == 5
    with zipfile.ZipFile(masks["value"]) as archive:
        assert len(archive.namelist()) == 5
    assert len(json.loads(Path(document["value"]).read_text())["frames"]) == 5
    assert any(0 < unit.progress < 1 for unit in told)
    assert any(unit.desc and unit.desc.endswith(" of 5 seconds") for unit in told)
    muted = client.predict(handle_file(scene), "muted", None, api_name="/instead")
    assert "Segmented in 0 of 5" in muted[0]
    clip = client.predict(handle_file(scene), "clip", handle_file(quiet), api_name="/instead")
    assert "Segmented in 0 of 5" in clip[0]


def test_the_example_and_the_settings(client, site):
    config = json.loads(ask(site, "GET", "/config")[1])
    assert "Model: **stamps**" in json.dumps(config)
    (examples,) = (part["id"] for part in config["components"] if part["type"] == "dataset")
    click = next(event["id"] for event in config["dependencies"] if event["targets"] == [[examples, "click"]])
    body = json.dumps({"data": [0], "fn_index": click, "session_hash": "a"}).encode()
    answered = ask(site, "POST", "/gradio_api/run/predict", body, {"Content-Type": "application/json"})
    video = json.loads(answered[1])["data"][0]["value"]
    sweep(site[1], 0.0)
    assert Path(video["path"]).exists(), "the example outlasts what visitors leave"
    summary, *_, pictures, _, document = client.predict(video, "", 2, 0.9, api_name="/listen")
    assert " of 10 masks. Tags: fire-truck" in summary and pictures[1]["caption"] == "0:00.50 fire-truck"
    assert json.loads(Path(document["value"]).read_text())["made_with"]["threshold"] == 0.9
    sweep(site[1], -1.0)
    assert Path(video["path"]).exists()


def test_with_a_tagger_the_page_lists_the_words(site, segmenter, tmp_path):
    from icf_avs.serve.page import build_page

    config = replace(segmenter.model.config, evidence=EvidenceConfig())
    tagged = SimpleNamespace(name="natural", model=SimpleNamespace(config=config))
    lists = []
    for made in (segmenter, tagged):
        texts = [str(part["props"].get("value")) for part in build_page(made, tmp_path, LIMITS).config["components"]]
        lists.append([text.split(", ") for text in texts if "accordion, " in text])
    assert lists[0] == [] and len(lists[1]) == 1
    assert lists[1][0] == sorted(lists[1][0]) and {"bark", "car horn"} <= set(lists[1][0])
    assert "thunder" not in lists[1][0], "nothing visible makes it"


def test_videos_of_several_users_are_processed_one_at_a_time(site, scene, text, monkeypatch):
    working, most = 0, 0

    def counted(*args, **options):
        nonlocal working, most
        working += 1
        most = max(most, working)
        try:
            time.sleep(0.2)
            return run_inference(*args, **options)
        finally:
            working -= 1

    monkeypatch.setattr("icf_avs.serve.page.run_inference", counted)
    visitors = [Client(site[0], verbose=False, download_files=False) for _ in range(2)]
    jobs = [
        visitor.submit(handle_file(video), api_name="/listen") for video in (scene, text, scene) for visitor in visitors
    ]
    for number, job in enumerate(jobs):
        if number in (2, 3):
            with pytest.raises(AppError, match="not a video that can be read"):
                job.result()
        else:
            assert "3 of 5" in job.result()[0]
    assert most == 1


def test_error_messages_hold_no_path_traceback_or_markup(client, site, text, scene, monkeypatch):
    with pytest.raises(AppError) as error:
        client.predict(handle_file(text), api_name="/listen")
    line = str(error.value)
    assert "not a video" in line and "\n" not in line and str(site[1]) not in line and "<" not in line

    def fails(*args, **options):
        raise RuntimeError("secret of the server")

    monkeypatch.setattr("icf_avs.serve.page.run_inference", fails)
    with pytest.raises(AppError, match="It is not your fault") as error:
        client.predict(handle_file(scene), api_name="/listen")
    assert "secret" not in str(error.value)

    def refuses(*args, **options):
        raise UserError(f"'gitar': no such word is known; did you mean guitar? {LIST}")

    monkeypatch.setattr("icf_avs.serve.page.run_inference", refuses)
    with pytest.raises(AppError, match=r"did you mean guitar\? the page lists what can be asked for"):
        client.predict(handle_file(scene), api_name="/listen")
    with pytest.raises(AppError, match="more than 1000 characters of words"):
        client.predict(handle_file(scene), "word, " * 300, api_name="/listen")


def test_a_large_upload_is_refused(site):
    body = b"x" * (LIMITS.upload_bytes + 100_000)
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    status, answered, _ = ask(site, "POST", "/gradio_api/upload", body, form)
    assert status == 413 and b"takes 1 MB at most" in answered
    status, _, _ = ask(site, "POST", "/gradio_api/upload", headers={"Transfer-Encoding": "chunked"})
    assert status == 411


def test_an_aborted_upload_logs_no_traceback(site, caplog):
    address = urllib.parse.urlparse(site[0])
    with socket.create_connection((address.hostname, address.port), timeout=20) as visitor:
        visitor.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 9000\r\n\r\n--b\r\n"
            b'Content-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\nxx'
        )
        time.sleep(0.5)  # until the server has begun to read
    for _ in range(20):
        assert ask(site, "GET", "/robots.txt")[0] in (200, 404)
        time.sleep(0.05)
    assert not [record for record in caplog.records if record.exc_info]


def test_uploads_to_a_full_folder_are_refused(site):
    hog = site[1] / "hog"
    with hog.open("wb") as file:
        file.truncate(LIMITS.stored_bytes)
    try:
        assert ask(site, "POST", "/gradio_api/upload", b"x")[0] == 507
    finally:
        hog.unlink()


# What must not be served


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A file outside the page's folder, in the server's working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "secret.txt"
    path.write_text("the secret")
    return path


def test_no_file_outside_its_folder_is_served(site, secret):
    store = site[1]
    (store / "mine.txt").write_text("mine")
    assert ask(site, "GET", f"/gradio_api/file={store}/mine.txt")[:2] == (200, b"mine")
    os.symlink(secret, store / "link.txt")
    up = "../" * 12
    targets = (
        f"{secret}", f"{store}/{up}{secret}", f"{store}/./..{secret}", "secret.txt", "./secret.txt", f"//{secret}",
        f"{store}/link.txt", f"file://{secret}", f"{store}x/../{secret}",
    )  # fmt: skip
    routes = (
        "/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/gradio_api/proxy=", "/svelte/",
        "/gradio_api/custom_component/x/client/component/", "/",
    )  # fmt: skip
    for target in targets:
        for way in (str, urllib.parse.quote, lambda path: "".join(f"%{ord(c):02X}" for c in path),
                    lambda path: urllib.parse.quote(urllib.parse.quote(path, safe=""), safe=""),
                    lambda path: path.replace("../", "..%2f"), lambda path: path.replace("../", "%2e%2e/"),
                    lambda path: path.replace("../", "..\\"), lambda path: path.replace("/", "%c0%af"),
                    lambda path: path + "%00.png", lambda path: path + "?x=.png"):  # fmt: skip
            for route in routes:
                status, body, _ = ask(site, "GET", route + way(target))
                assert b"the secret" not in body and status in (307, 400, 403, 404), (status, route, way(target))
    os.unlink(store / "link.txt")


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=http://127.0.0.1:9/x", "/gradio_api/file=https://example.org/x", "/gradio_api/proxy=http://a/x",
     "/monitoring", "/gradio_api/runs", "/gradio_api/openapi.json", "/docs", "/openapi.json", "/gradio_api/mcp/",
     "/gradio_api/deep_link", "/gradio_api/vibe-code/", "/gradio_api/process_recording"],
)  # fmt: skip
def test_the_server_fetches_no_url_and_has_no_hidden_routes(site, path):
    for method in ("GET", "POST"):
        assert ask(site, method, path, b"{}" if method == "POST" else None)[0] == 404


def test_calls_accept_only_uploaded_files(site, secret):
    for path in (str(secret), f"{site[1]}/../{secret}", "http://127.0.0.1:9/x.mp4", "secret.txt", 5, ["x"]):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = json.dumps({"data": [file], "fn_index": 2, "session_hash": "a"}).encode()
        for route in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
            status, answered, _ = ask(site, "POST", route, body, {"Content-Type": "application/json"})
            assert (status, answered) == (400, b"give a file that was uploaded to this page"), path
    assert ask(site, "POST", "/gradio_api/queue/join", b"[" * 100_000)[0] == 400
    assert ask(site, "POST", "/gradio_api/queue/join", b" " * 1_100_000)[0] == 400


def test_the_queue_cannot_be_bypassed(site, scene):
    own = site[1] / "own"
    own.mkdir(exist_ok=True)
    shutil.copy(scene, own)
    body = {"data": [{"path": str(own / "truck.mp4"), "meta": {"_type": "gradio.FileData"}}], "session_hash": "a"}
    dependencies = json.loads(ask(site, "GET", "/config")[1])["dependencies"]
    queued = [entry["id"] for entry in dependencies if entry["queue"] is not False]
    assert len(queued) == 4
    for index in queued:
        text = json.dumps({**body, "fn_index": index}).encode()
        status, answered, _ = ask(site, "POST", "/gradio_api/run/predict", text, {"Content-Type": "application/json"})
        assert status >= 400 and b"Segmented" not in answered


def test_the_page_refers_to_no_other_host(site):
    status, page, headers = ask(site, "GET", "/")
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    config = json.loads(ask(site, "GET", "/config")[1])
    assert config["analytics_enabled"] is False
    assert b"fonts.googleapis" not in page and b"fonts.googleapis" not in ask(site, "GET", "/theme.css")[1]


def test_the_server_is_reachable_from_this_machine_only(site):
    assert urllib.parse.urlparse(site[0]).hostname == "127.0.0.1"
    for name in {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not name.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((name, urllib.parse.urlparse(site[0]).port), timeout=2)


def test_old_files_are_deleted(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "video.mp4").write_bytes(b"x")
    os.utime(tmp_path / "old", (time.time() - 4000,) * 2)
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["new"]


# The command


@pytest.mark.parametrize(
    ("number", "code", "line"), [(signal.SIGINT, 130, "icf: interrupted\n"), (signal.SIGTERM, 0, "")]
)
def test_a_terminated_server_leaves_no_files(scene, tmp_path, number, code, line):
    port = free_port()
    # The server prints every host name it looks up, apart from this machine's.
    program = (
        "import os, signal, sys, socket, icf_avs.__main__ as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background process would ignore it
        "asked, real = set(), socket.getaddrinfo\n"
        "def lookup(host, *args, **options):\n    asked.add(str(host)); return real(host, *args, **options)\n"
        "socket.getaddrinfo = lookup\n"
        "code = cli.main(sys.argv[1:])\nprint(sorted(asked - {'127.0.0.1', 'localhost'}))\n"
        "sys.stdout.flush()\nos._exit(code)"
    )
    (tmp_path / "temporary").mkdir()
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO_")}  # not those of `site`
    server = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--checkpoint", "stamps", "--port", str(port), "--max-seconds", "9"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=bare | {"TMPDIR": str(tmp_path / "temporary")},
    )  # fmt: skip
    assert server.stdout.readline() == f"the page is at http://127.0.0.1:{port}/ (end it with Ctrl+C)\n"
    visitor = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=False)
    job = visitor.submit(handle_file(scene), api_name="/listen")
    while job.status().code.name not in ("PROCESSING", "PROGRESS", "FINISHED"):
        time.sleep(0.01)
    server.send_signal(number)
    out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err) == (code, "[]\n", line)
    assert os.listdir(tmp_path / "temporary") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host", "192.0.2.1"])
def test_an_unavailable_address_gives_a_one_line_error(site, host, capfd):
    """A taken port, and addresses of other machines: no additional error from the web server."""
    port = urllib.parse.urlparse(site[0]).port
    assert cli.main(["serve", "--host", host, "--port", str(port), "--checkpoint", "stamps"]) == 2
    printed = capfd.readouterr()
    assert f"{host}:{port}: not available; choose another --port, or a --host of this machine" in printed.err
    assert printed.err.count("\n") == 1 and not printed.out


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name.startswith("icf_avs.serve")]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.main(["serve"]) == 2
    assert "pip install 'icf-avs[web]'" in capsys.readouterr().err


# In a browser


@pytest.mark.browser
def test_in_a_browser(site, scene, text, tmp_path):
    from playwright import sync_api

    assert CHROMIUM, "no Chromium on this machine: apt-get install chromium, or CHROMIUM=path"
    done = "([id, words]) => document.querySelector(`#${id}-summary`).innerText.includes(words)"
    hosts, errors = set(), []

    def opened(browser, **options):
        page = browser.new_page(**options)
        page.set_default_timeout(120_000)  # on a busy machine
        page.on("request", lambda request: hosts.add(urllib.parse.urlparse(request.url.removeprefix("blob:")).netloc))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(site[0])
        return page

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] * (os.geteuid() == 0))
        page = opened(browser, accept_downloads=True)
        page.set_input_files("#video input[type=file]", scene)
        page.wait_for_function(done, arg=["own", "Segmented in 3 of 5"])
        assert page.locator("#own-words td", has_text="99").count() >= 1
        assert "fire-truck" in page.inner_text("#own-words") and page.locator("#own-pictures img").count() >= 5

        video = "id => document.querySelector(`#${id}-overlay video`)"
        page.wait_for_function(f"id => ({video})(id).readyState >= 2", arg="own")
        page.evaluate(f"id => {{ const film = ({video})(id); film.muted = true; film.play(); }}", "own")
        page.wait_for_function(f"id => ({video})(id).currentTime > 0.3", arg="own")
        assert page.evaluate(f"id => ({video})(id).webkitAudioDecodedByteCount", "own") > 0

        page.get_by_label("White noise").check()  # the switch
        page.wait_for_function(done, arg=["changed", "White noise. Segmented in"])
        assert re.search("in [01] of 5", page.inner_text("#changed-summary")), "as in test_results_with_replaced_audio"
        page.get_by_label("Muted").check()
        page.wait_for_function(done, arg=["changed", "Muted. Segmented in 0 of 5"])
        page.get_by_label("Another clip's sound").check()
        page.wait_for_function(done, arg=["changed", "Choose"])
        page.set_input_files("#other input[type=file]", scene)
        page.wait_for_function(done, arg=["changed", "Another clip's sound. Segmented in 3 of 5"])

        with page.expect_download() as download:
            page.click("#own-masks")
        download.value.save_as(tmp_path / "masks.zip")
        assert len(zipfile.ZipFile(tmp_path / "masks.zip").namelist()) == 5

        page.locator("#video").get_by_label("Clear").click()
        page.wait_for_function(done, arg=["own", "No video yet"])
        page.set_input_files("#video input[type=file]", text)
        page.get_by_text("not a video that can be read").first.wait_for()

        phone = {"width": 390, "height": 844}
        page = opened(browser, viewport=phone, is_mobile=True, has_touch=True, color_scheme="dark")
        for _ in range(100):  # a page that is still loading ignores taps
            if "No video yet" not in page.inner_text("#own-summary"):
                break
            page.locator(".gallery-item").first.tap()  # the example
            page.wait_for_timeout(1000)
        page.wait_for_function(done, arg=["own", "Segmented in 3 of 5"])
        page.locator("#fps input[type=number]").fill("4")
        page.locator("#again").tap()
        page.wait_for_function(done, arg=["own", "of 20 masks"])
        assert page.evaluate("document.documentElement.scrollWidth") == 390, "nothing sticks out"
        assert page.evaluate("document.body.classList.contains('dark')")
        browser.close()
    assert hosts == {urllib.parse.urlparse(site[0]).netloc} and not errors
