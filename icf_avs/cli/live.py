"""`icf live`: tag and segment a video, or a camera and microphone, in real time."""

from __future__ import annotations

import argparse
from pathlib import Path

from icf_avs.arg_types import probability, rate
from icf_avs.cli.options import checkpoint, command, device
from icf_avs.errors import UserError


def _live(args: argparse.Namespace) -> None:
    devices = [name for name in (args.camera, args.microphone) if name is not None]
    if (args.video is None) != bool(devices):
        raise UserError("icf live takes a video, or --camera and --microphone; name one of the two")
    from icf_avs.inference.live_command import live_command

    live_command(args.video, devices, args.checkpoint, args.fps, args.threshold, args.words, args.device)


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command."""
    part = command(
        commands,
        "live",
        _live,
        "say what sounds while a video plays, or what a camera and a microphone hear and see",
        "  icf live street.mp4\n"
        "  icf live --camera v4l2:/dev/video0 --microphone alsa:default        # Linux\n"
        "  icf live --camera avfoundation:0:0                                  # macOS: both\n"
        '  icf live --camera "dshow:video=Integrated Camera:audio=Microphone"  # Windows: both\n\n'
        "In Python, `icf_avs.load().stream(...)` gives the masks.",
    )
    part.add_argument("video", metavar="VIDEO", type=Path, nargs="?", help="a file, played in real time")
    part.add_argument("--camera", metavar="DEVICE", help="an input device of FFmpeg, as FORMAT:NAME")
    part.add_argument("--microphone", metavar="DEVICE", help="the same for the sound, where the camera brings none")
    part.add_argument("--fps", type=rate, default=1.0, help="masks a second (default: 1)")
    checkpoint(part, "--checkpoint")
    device(part)
    part.add_argument("--threshold", type=probability, default=0.5, help="probability of the pixels (default: 0.5)")
    part.add_argument("--words", metavar="WORDS", help="predict only these tags, with commas between them")
