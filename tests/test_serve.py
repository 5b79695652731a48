"""The running web page: results, refused requests, and a session in a real browser."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import socket
import time
import urllib.parse
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from clip_maker import make_clip, tone
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import icf_avs
from icf_avs.config import EvidenceConfig
from icf_avs.errors import UserError
from icf_avs.inference.word_prompts import LIST
from icf_avs.media.audio_windows import AudioWindows
from icf_avs.media.video_reader import probe
from icf_avs.serve.command import serving, sweep
from icf_avs.serve.limits import Limits
from icf_avs.serve.run_inference import run_inference
from icf_avs.types import ClipSpec
from tools.make_picture import write_scene

pytestmark = pytest.mark.full

LIMITS = Limits(max_mb=1, max_seconds=6)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
UPLOAD, CALLS = "/gradio_api/upload", ("/gradio_api/queue/join", "/gradio_api/run/predict")


@pytest.fixture(scope="module")
def videos(tmp_path_factory, catalog):
    """The fire truck of the README, which sounds in three of five seconds; two seconds with a tone; a text file."""
    folder = tmp_path_factory.mktemp("videos")
    write_scene(folder / "truck.mp4", ClipSpec())
    make_clip(folder / "tone.mp4", seconds=2, sound=tone(2))
    (folder / "<b>text.mp4").write_text("this is no video")
    return folder / "truck.mp4", folder / "tone.mp4", folder / "<b>text.mp4"


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


def config(site):
    return json.loads(ask(site, "GET", "/config")[1])


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


@pytest.mark.parametrize(
    ("mode", "other", "found"), [("muted", 1, "0"), ("noise", 1, "[01]"), ("clip", 0, "3"), ("clip", 1, "0")]
)
def test_replaced_audio_changes_the_masks_and_is_played(client, videos, mode, other, found):
    files = handle_file(videos[0]), mode, handle_file(videos[other])
    summary, overlay, *_ = client.predict(*files, api_name="/instead")
    assert re.search(rf"\. Segmented in {found} of 5", summary)
    wave = AudioWindows(probe(overlay)).read(0, 80_000)
    if (mode, other) == ("clip", 1):  # the tone of two seconds is repeated to the end
        assert abs(np.fft.rfft(wave)).argmax() * 16_000 / 80_000 == pytest.approx(440, abs=1)
    assert mode != "muted" or np.abs(wave).max() < 1e-4


def test_the_example_and_the_settings(client, site):
    """Unused files are deleted, the example stays."""
    parts = config(site)
    (examples,) = (part["id"] for part in parts["components"] if part["type"] == "dataset")
    click = next(event["id"] for event in parts["dependencies"] if event["targets"] == [[examples, "click"]])
    answered = ask(site, "POST", CALLS[1], {"data": [0], "fn_index": click, "session_hash": "a"})
    video = json.loads(answered[1])["data"][0]["value"]
    summary, *_, pictures, _, document = client.predict(video, "", 2, 0.9, api_name="/listen")
    assert " of 10 masks. Tags: fire-truck" in summary and pictures[1]["caption"] == "0:00.50 fire-truck"
    assert json.loads(Path(document["value"]).read_text())["made_with"]["threshold"] == 0.9
    sweep(site[1], 3600.0)
    assert list(site[1].glob("answer-*"))
    sweep(site[1], -1.0)
    assert Path(video["path"]).exists() and not list(site[1].glob("answer-*"))


def test_with_a_tagger_the_page_lists_the_words(site, tmp_path):
    from icf_avs.serve.page import build_page

    model = SimpleNamespace(config=replace(icf_avs.load("stamps").model.config, evidence=EvidenceConfig()))
    page = str(build_page(SimpleNamespace(name="natural", model=model), tmp_path, LIMITS).config)
    assert ", bark," in page and "thunder" not in page, "nothing visible makes it"


def test_videos_of_several_users_are_processed_one_at_a_time(site, videos, monkeypatch):
    working, most = [], []

    def counted(*args, **options):
        working.append(1)
        most.append(len(working))
        found = run_inference(*args, **options)
        working.pop()
        return found

    monkeypatch.setattr("icf_avs.serve.page.run_inference", counted)
    visitors = [Client(site[0], verbose=False, download_files=False) for _ in range(2)]
    jobs = [visitor.submit(handle_file(videos[0]), api_name="/listen") for visitor in visitors * 2]
    assert all("3 of 5" in job.result()[0] for job in jobs) and max(most) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [(None, "not a video"), (RuntimeError("secret of the server"), "It is not your fault"),
     (UserError(f"no such word is known; did you mean guitar? {LIST}"), "the page lists what can be asked for")],
)  # fmt: skip
def test_error_messages_hold_no_path_traceback_or_markup(error, told, client, site, videos, monkeypatch):
    if error is not None:
        monkeypatch.setattr("icf_avs.serve.page.run_inference", Mock(side_effect=error))
    with pytest.raises(AppError, match=told) as shown:
        client.predict(handle_file(videos[2]), api_name="/listen")
    assert not [word for word in ("secret", "\n", "<", str(site[1])) if word in str(shown.value)]
    with pytest.raises(AppError, match="more than 1000 characters of words"):
        client.predict(handle_file(videos[2]), "word, " * 300, api_name="/listen")


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
        f"{secret}", f"{store}/{up}{secret}", f"{store}/./..{secret}", "secret.txt", "./secret.txt", f"//{secret}",
        f"{store}/link.txt", f"file://{secret}", f"{store}x/../{secret}",
    )  # fmt: skip
    routes = ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/", "/gradio_api/proxy=",
              "/svelte/", "/gradio_api/custom_component/x/client/component/", "/")  # fmt: skip
    ways = (str, urllib.parse.quote, lambda path: "".join(f"%{ord(c):02X}" for c in path),
            lambda path: urllib.parse.quote(urllib.parse.quote(path, safe=""), safe=""),
            lambda path: path.replace("../", "..%2f"), lambda path: path.replace("../", "..\\"),
            lambda path: path.replace("/", "%c0%af"), lambda path: path + "%00.png")  # fmt: skip
    for route, way, target in itertools.product(routes, ways, targets):
        status, body, _ = ask(site, "GET", route + way(target))
        assert b"the secret" not in body and status in (307, 400, 403, 404), (status, route, way(target))
    os.unlink(store / "link.txt")


def test_the_server_fetches_no_url_and_has_no_hidden_routes(site):
    paths = ("file=http://127.0.0.1:9/x", "file=https://example.org/x", "proxy=http://a/x", "runs", "openapi.json",
             "mcp/", "deep_link", "vibe-code/", "process_recording")  # fmt: skip
    for path in ("/monitoring", "/docs", "/openapi.json", *(f"/gradio_api/{path}" for path in paths)):
        assert ask(site, "GET", path)[0] == ask(site, "POST", path, {})[0] == 404, path


def test_calls_accept_only_uploaded_files(site, secret):
    for path in (str(secret), f"{site[1]}/../{secret}", "http://127.0.0.1:9/x.mp4", "secret.txt", 5, ["x"]):
        body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 2, "session_hash": "a"}
        for route in CALLS:
            assert ask(site, "POST", route, body)[:2] == (400, b"give a file that was uploaded to this page"), path
    for text in (b"[" * 100_000, b" " * 1_100_000):
        assert ask(site, "POST", CALLS[0], text)[0] == 400


def test_the_queue_cannot_be_bypassed(site, videos):
    path = shutil.copy(videos[0], site[1])
    queued = [entry["id"] for entry in config(site)["dependencies"] if entry["queue"] is not False]
    assert len(queued) == 4
    for index in queued:
        data = [{"path": str(path), "meta": {"_type": "gradio.FileData"}}]
        status, answered, _ = ask(site, "POST", CALLS[1], {"data": data, "session_hash": "a", "fn_index": index})
        assert status >= 400 and b"Segmented" not in answered


def test_the_page_is_local_and_refers_to_no_other_host(site):
    status, page, headers = ask(site, "GET", "/")
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    assert config(site)["analytics_enabled"] is False
    assert b"fonts.googleapis" not in page + ask(site, "GET", "/theme.css")[1]
    for name in {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not name.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((name, urllib.parse.urlparse(site[0]).port), timeout=2)


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
        page.set_input_files("#video input[type=file]", videos[2])
        page.get_by_text("not a video that can be read").first.wait_for()
        browser.close()
    assert hosts == {urllib.parse.urlparse(site[0]).netloc} and not errors
