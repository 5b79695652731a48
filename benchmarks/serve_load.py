"""The page under load: ten clients put 50 uploads into its queue at once, then more, up to 200.

    python benchmarks/serve_load.py [--uploads 200] [--out results/reliability.csv]

Every tenth upload is broken bytes named .mp4. A check fails for each upload that is not answered as it must be, and if
the server's process takes 100 MB more after the last than after the first 50. It runs as a user starts it, with the
shipped checkpoint, and each result is fetched.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import av
import numpy as np
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from reliability import save_row

CLIENTS, FIRST, POISONED, MARGIN = 10, 50, 10, 100
WAIT = 900  # seconds that a client waits for its turn and its result
SECONDS, SIZE, RATE = 3, 160, 16_000


def write(path: Path) -> None:
    """Write a video of a moving square with a tone."""
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=RATE, layout="mono")
        video.width, video.height, video.pix_fmt = SIZE, SIZE, "yuv420p"
        for number in range(10 * SECONDS):
            image = np.full((SIZE, SIZE, 3), 90, np.uint8)
            image[40:80, number : number + 40] = 230, 20, 20
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(SECONDS * RATE, dtype=np.float32) / RATE)
        sound = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
        sound.sample_rate = RATE
        for stream, frame in ((audio, sound), (audio, None), (video, None)):
            container.mux(stream.encode(frame))


def memory(process: int) -> float:
    """Return the resident memory of a process in megabytes (Linux)."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1000


def visit(address: str, good: Path, bad: Path, numbers: list[int]) -> int:
    """Queue these uploads at once, and return how many get a wrong response."""
    with tempfile.TemporaryDirectory() as folder:
        client = Client(address, verbose=False, download_files=folder, httpx_kwargs={"timeout": WAIT})
        jobs = [
            (n, client.submit(handle_file(bad if n % POISONED == 0 else good), api_name="/listen")) for n in numbers
        ]
        failed = 0
        for number, job in jobs:
            try:
                summary, overlay, *_ = job.result(timeout=WAIT)
                failed += (
                    number % POISONED == 0 or f"of {SECONDS} seconds" not in summary or not Path(overlay).stat().st_size
                )
            except AppError as error:
                failed += number % POISONED != 0 or "not a video that can be read" not in str(error)
        return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=200, help="how many, at least 50 (default: 200)")
    parser.add_argument("--out", type=Path, help="table to write the count to (default: none)")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failed, sizes = 0, []
    with tempfile.TemporaryDirectory() as folder:
        good, bad = Path(folder) / "good.mp4", Path(folder) / "bad.mp4"
        write(good)
        bad.write_bytes(np.random.default_rng(0).bytes(50_000))
        command = [sys.executable, "-m", "icf_avs", "serve", "--port", str(port), "--max-mb", "5"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        address = server.stdout.readline().split()[4]
        threading.Thread(target=server.stdout.read, daemon=True).start()
        try:
            began = time.monotonic()
            for start in range(0, args.uploads, FIRST):
                numbers = range(start, min(start + FIRST, args.uploads))
                with ThreadPoolExecutor(CLIENTS) as clients:
                    parts = [[*numbers][client::CLIENTS] for client in range(CLIENTS)]
                    failed += sum(clients.map(partial(visit, address, good, bad), parts))
                sizes.append(memory(server.pid))
                print(
                    f"{numbers[-1] + 1} uploads, {failed} failed, {sizes[-1]:.0f} MB, {time.monotonic() - began:.0f} s"
                )
        finally:
            server.terminate()  # processes that a shell starts in the background ignore SIGINT
            try:
                failed += server.wait(60) != 0
            except subprocess.TimeoutExpired:
                server.kill()
                failed += 1
    failed += sizes[-1] > sizes[0] + MARGIN
    if args.out:
        save_row(args.out, "page under load", args.uploads + 2, failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
