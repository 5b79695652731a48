"""`icf serve`: start the page, print its address, and remove all files at the end.

All files of the page lie in one folder, which is removed at the end. Until then, old files in it are removed. Gradio's
`delete_cache` would miss aborted uploads and intermediate files of a request.
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

MAX_AGE = 3600.0  # seconds for which an upload or a result is kept after its last use
_YEARS = 1e9  # seconds
_SWEEP_INTERVAL = 60.0  # seconds between two sweeps
_SIGNAL_INTERVAL = 0.2  # seconds between two checks for a signal


@contextmanager
def serving(
    segmenter: Segmenter, host: str, port: int, limits: Limits, jobs: int = 1
) -> Iterator[tuple[str, Path]]:  # fmt: skip
    """Run the page while the block runs; yield its address and the folder of its files."""
    with page_folder() as store:
        # Import only now: Gradio creates its folder, in GRADIO_TEMP_DIR, when it is imported.
        import gradio as gr
        from starlette.middleware import Middleware

        from icf_avs.serve.page import CSS, build_page
        from icf_avs.serve.request_filter import RequestFilter

        check_address(host, port)
        page = build_page(segmenter, store, limits, jobs, _example(store))
        for entry in store.iterdir():  # keep the files present now as long as the page
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
            # Otherwise it waits for all visitors to leave. Connections that end with the page are not logged as errors.
            page.server.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            page.close(verbose=False)


@contextmanager
def page_folder() -> Iterator[Path]:
    """Create a private temporary folder, used by Gradio too, and remove it at the end."""
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
    """Write the example video of the page, or return None if its source images and sounds are not on this machine."""
    if find(STAMPS) is None:
        return None
    (store / "example").mkdir()
    write_scene(store / "example" / "fire-truck.mp4", ClipSpec())
    return store / "example" / "fire-truck.mp4"


def sweep(store: Path, max_age: float = MAX_AGE) -> None:
    """Remove entries of `store` that have not been used for `max_age` seconds."""
    oldest = time.time() - max_age
    for entry in store.iterdir():
        with suppress(FileNotFoundError):  # removed meanwhile
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()


def _sweep_until(ended: threading.Event, store: Path) -> None:
    while not ended.wait(_SWEEP_INTERVAL):
        sweep(store)


def check_address(host: str, port: int) -> None:
    """Raise UserError unless this machine has the address and the port is free; shorter than the server's log."""
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
    """Run the page until interrupted or terminated. Raises UserError without checkpoint, device or address."""
    check_address(host, port)  # before the model is loaded
    stopped: list[int] = []
    # SIGTERM stops a service; the files of the page must be removed then too.
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    with serving(pretrained.load(checkpoint, device), host, port, limits, jobs) as (address, _):
        print(f"the page is at {address} (end it with Ctrl+C)", flush=True)
        # Poll, because a signal received by another thread, such as a worker, does not wake this one.
        while not stopped:
            time.sleep(_SIGNAL_INTERVAL)
