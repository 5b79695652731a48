"""Take docs/serve.png, the screenshot of the page in the README: `python -m tools.make_screenshot`.

`icf serve` shows the scene of make_picture.py, with sound and muted, in Chromium (CHROMIUM: path, if not Debian's).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import icf_avs
from icf_avs.serve.command import serving
from icf_avs.serve.limits import Limits
from tools.make_picture import write_scene

_DONE = "document.querySelector('#{}-summary').innerText.includes('Segmented in')"
_AT_ONE_SECOND = "document.querySelectorAll('video').forEach(video => { video.currentTime = 1 })"


def main() -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    target = Path(__file__).parents[1] / "docs" / "serve.png"
    segmenter = icf_avs.load("stamps")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        video = Path(folder) / "scene.mp4"
        write_scene(video, segmenter.model.spec)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] * (os.geteuid() == 0))
        with serving(segmenter, "127.0.0.1", 7899, Limits()) as (address, _):
            page = browser.new_page(viewport={"width": 1240, "height": 1600})
            page.goto(address)
            page.set_input_files("#video input[type=file]", video)
            page.wait_for_function(_DONE.format("own"))
            page.get_by_label("Muted").check()
            page.wait_for_function(_DONE.format("changed"))
            page.evaluate(_AT_ONE_SECOND)
            page.wait_for_timeout(2000)  # wait until the images are drawn
            page.screenshot(path=target)
        browser.close()
    picture = Image.open(target).convert("RGB")
    picture = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3), Image.Resampling.LANCZOS)
    picture.quantize(256, kmeans=3).save(target, optimize=True)
    print(target)


if __name__ == "__main__":
    main()
