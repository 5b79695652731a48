"""`icf serve`: start the page, say where it is, and leave nothing behind."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import icf_avs
from icf_avs.errors import UserError
from icf_avs.segment import Segmenter
from icf_avs.serve.limits import Limits
from icf_avs.serve.store import own_folder

_PAUSE = 0.2  # seconds between two looks for a signal


@contextmanager
def serving(
    segmenter: Segmenter, host: str, port: int, limits: Limits, jobs: int = 1
) -> Iterator[tuple[str, Path]]:  # fmt: skip
    """The page while the block runs: its address and the folder of its files.

    Raises UserError if the address cannot be had.
    """
    with own_folder() as store:
        # Not before: Gradio makes its folder, where it is told to, as soon as it is imported.
        import gradio as gr
        from starlette.middleware import Middleware

        from icf_avs.serve.guard import Guard
        from icf_avs.serve.page import CSS, build_page

        page = build_page(segmenter, store, limits, jobs)
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, inbrowser=False, share=False,
                show_error=True, max_file_size=limits.upload_bytes, allowed_paths=[], ssr_mode=False, pwa=False,
                mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[], css=CSS,
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                app_kwargs={"middleware": [Middleware(Guard, store=store, limits=limits)]},
            )  # fmt: skip
        except (OSError, ValueError, OverflowError) as error:
            raise UserError(
                f"{host}:{port}: cannot be had; choose another --port, or a --host of this machine"
            ) from error
        try:
            yield address, store
        finally:
            # Or it waits for every visitor to leave. That connections end with the page is no error to log.
            page.server.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            page.close(verbose=False)


def serve_command(
    checkpoint: str | None, host: str, port: int, limits: Limits, jobs: int, device: str = "auto"
) -> None:
    """Show the page until interrupted or terminated. Raises UserError without checkpoint, device or address."""
    stopped: list[int] = []
    # How a service is stopped: its files must go then too.
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    with serving(icf_avs.load(checkpoint, device), host, port, limits, jobs) as (address, _):
        print(f"the page is at {address} (end it with Ctrl+C)", flush=True)
        # Not one long wait: a signal that another thread receives, as one at work may, does not wake this one.
        while not stopped:
            time.sleep(_PAUSE)
