"""`icf serve`: the web page."""

from __future__ import annotations

import argparse
import importlib.util

from icf_avs.arg_types import whole
from icf_avs.cli.options import checkpoint, command, device
from icf_avs.errors import UserError


def _serve(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs gradio: pip install 'icf-avs[web]'")
    from icf_avs.serve.command import serve_command
    from icf_avs.serve.limits import Limits

    serve_command(args.checkpoint, args.host, args.port, Limits(args.max_mb, args.max_seconds), args.jobs, args.device)


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command."""
    part = command(
        commands,
        "serve",
        _serve,
        "show a web page: drop a video, see what sounds, and change the sound to see whether the model uses it",
        "  icf serve                                     # http://127.0.0.1:7860, for this machine alone\n"
        "  icf serve --host 0.0.0.0 --port 8080          # for the network: it has no password\n"
        "  icf serve --max-seconds 20 --max-mb 30\n\n"
        "Files are kept in a temporary folder for an hour and removed at the end. Nothing is loaded from other hosts.",
    )
    checkpoint(part, "--checkpoint")
    device(part)
    part.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    part.add_argument("--port", metavar="N", type=whole(1, 65_535), default=7860, help="port (default: 7860)")
    part.add_argument(
        "--max-mb", metavar="N", type=whole(1, 1_000_000), default=100, help="largest upload (default: 100)"
    )
    part.add_argument(
        "--max-seconds", metavar="N", type=whole(1, 1_000_000), default=60, help="longest video (default: 60)"
    )
    part.add_argument(
        "--jobs", metavar="N", type=whole(1, 1000), default=1, help="videos at a time, others wait (default: 1)"
    )
