"""`icf serve`: start the page, say where it is, and leave nothing behind.

All its files lie in one folder, which is removed at the end and emptied by age before: Gradio's `delete_cache` knows
neither uploads that break off nor what a request made on the way.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icf_avs.atomic_io import unfinished_folder
from icf_avs.errors import UserError
from icf_avs.inference import pretrained
from icf_avs.inference.segment import Segmenter
from icf_avs.serve.limits import Limits
from icf_avs.synthetic.asset_packages import STAMPS, find
from icf_avs.synthetic.example_scene import write_scene
from icf_avs.types import ClipSpec

MAX_AGE = 3600.0  # seconds that an upload or a result stays after it was last used
_YEARS = 1e9  # seconds
_SWEEP_INTERVAL = 60.0  # seconds between two removals
_SIGNAL_INTERVAL = 0.2  # seconds between two checks for a signal


@contextmanager
def serving(
    segmenter: Segmenter, host: str, port: int, limits: Limits, jobs: int = 1
) -> Iterator[tuple[str, Path]]:  # fmt: skip
    """The page while the block runs: its address and the folder of its files.

    Raises UserError if the address is not available.
    """
    with page_folder() as store:
        # Not before: Gradio makes its folder, in GRADIO_TEMP_DIR, as soon as it is imported.
        import gradio as gr
        from starlette.middleware import Middleware

        from icf_avs.serve.page import CSS, build_page
        from icf_avs.serve.request_filter import RequestFilter

        check_address(host, port)
        page = build_page(segmenter, store, limits, jobs, _example(store))
        for entry in store.iterdir():  # what is here now stays as long as the page
            os.utime(entry, (time.time() + _YEARS,) * 2)
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, inbrowser=False, share=False,
                show_error=True, max_file_size=limits.upload_bytes, allowed_paths=[], ssr_mode=False, pwa=False,
                mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[], css=CSS,
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                app_kwargs={"middleware": [Middleware(RequestFilter, store=store, limits=limits)]},
            )  # fmt: skip
        except (OSError, ValueError, OverflowError) as error:
            raise _unavailable(host, port) from error
        try:
            yield address, store
        finally:
            # Or it waits for every visitor to leave. That connections end with the page is no error to log.
            page.server.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            page.close(verbose=False)


@contextmanager
def page_folder() -> Iterator[Path]:
    """A new folder that nobody else may read, where Gradio keeps its files too. It is removed at the end."""
    names = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE", "GRADIO_ALLOWED_PATHS")
    before, ended = {name: os.environ.pop(name) for name in names if name in os.environ}, threading.Event()
    with unfinished_folder(Path(tempfile.gettempdir()), "icf-serve-") as folder:
        store = folder.resolve()
        os.environ.update({"GRADIO_TEMP_DIR": str(store), "GRADIO_EXAMPLES_CACHE": str(store / "examples")})
        sweeper = threading.Thread(target=_sweep_until, args=(ended, store), daemon=True)
        sweeper.start()
        try:
            yield store
        finally:
            ended.set()
            sweeper.join()
            del os.environ["GRADIO_TEMP_DIR"], os.environ["GRADIO_EXAMPLES_CACHE"]
            os.environ.update(before)


def _example(store: Path) -> Path | None:
    """A video to click, where the images and sounds that it is made of are on this machine."""
    if find(STAMPS) is None:
        return None
    (store / "example").mkdir()
    write_scene(store / "example" / "fire-truck.mp4", ClipSpec())
    return store / "example" / "fire-truck.mp4"


def sweep(store: Path, max_age: float = MAX_AGE) -> None:
    """Remove what has not been used for so many seconds."""
    oldest = time.time() - max_age
    for entry in store.iterdir():
        with suppress(FileNotFoundError):  # gone meanwhile
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()


def _sweep_until(ended: threading.Event, store: Path) -> None:
    while not ended.wait(_SWEEP_INTERVAL):
        sweep(store)


def check_address(host: str, port: int) -> None:
    """Raise UserError unless this machine has the address and its port is free: the server would log more than that."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
            trial.bind(address)
    except (OSError, OverflowError) as error:
        raise _unavailable(host, port) from error


def _unavailable(host: str, port: int) -> UserError:
    return UserError(f"{host}:{port}: not available; choose another --port, or a --host of this machine")


def serve_command(
    checkpoint: str | None, host: str, port: int, limits: Limits, jobs: int, device: str = "auto"
) -> None:
    """Show the page until interrupted or terminated. Raises UserError without checkpoint, device or address."""
    check_address(host, port)  # before the model is loaded
    stopped: list[int] = []
    # How a service is stopped: its files must go then too.
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    with serving(pretrained.load(checkpoint, device), host, port, limits, jobs) as (address, _):
        print(f"the page is at {address} (end it with Ctrl+C)", flush=True)
        # Not one long wait: a signal that another thread receives, as one at work may, does not wake this one.
        while not stopped:
            time.sleep(_SIGNAL_INTERVAL)
