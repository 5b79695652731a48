"""Frames decoded once for two consumers: each gets all of them in order, and there is no deadlock."""

from __future__ import annotations

import threading
import time

import pytest
from clip_maker import make_clip, tone

from icf_avs.media import frame_tee
from icf_avs.media.frame_tee import FrameTee
from icf_avs.media.video_reader import probe, video_frames


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    """Video of fifty frames."""
    return probe(make_clip(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=2, sound=tone(2)))


def times(pictures) -> list[float]:
    return [time for time, _ in pictures]


class Behind(threading.Thread):
    """Thread that reads `count` frames, or all, once `may` is set."""

    def __init__(self, shared: FrameTee, count: int = 1000) -> None:
        super().__init__(daemon=True)
        self.shared, self.count, self.may, self.seen = shared, count, threading.Event(), []
        self.start()

    def run(self) -> None:
        self.may.wait()
        with self.shared.behind() as pictures:
            for moment, _ in pictures:
                self.seen.append(moment)
                if len(self.seen) == self.count:
                    return

    def done(self) -> list[float]:
        self.may.set()
        self.join(10)
        assert not self.is_alive()
        return self.seen


@pytest.mark.parametrize("seconds", [1.0, 1e6], ids=["shared", "too large"])
@pytest.mark.parametrize("ahead", [0, 1, 20, 1000])
def test_both_get_every_frame_wherever_the_first_stops(info, seconds, ahead):
    every = times(video_frames(info))
    with FrameTee(info, seconds=seconds) as shared:
        behind = Behind(shared)
        with shared.ahead() as pictures:
            seen = [moment for (moment, _), _ in zip(pictures, range(ahead), strict=False)]
        assert behind.done() == every
    assert len(every) == 50 and seen == every[:ahead]


def test_wait_lasts_until_the_other_is_near(info, monkeypatch):
    opened = []
    monkeypatch.setattr(frame_tee, "video_frames", lambda info: opened.append(1) or video_frames(info))
    with FrameTee(info, seconds=0.16) as shared:
        behind = Behind(shared)
        with shared.ahead() as pictures:
            for _ in range(20):
                next(pictures)
            threading.Timer(0.1, behind.may.set).start()
            began = time.monotonic()
            shared.wait(0.6)
            assert time.monotonic() - began > 0.05 and 15 <= len(behind.seen) + 1 <= 21
        assert len(behind.done()) == 50
    assert opened == [1]


def test_wait_ignores_later_frames(info):
    """As in a video whose frame rate rises: the overlay has drawn all masks and waits for the next."""
    with FrameTee(info, seconds=0.16) as shared, shared.ahead() as ahead, shared.behind() as behind:
        for _ in range(45):
            next(ahead)
        drawn = [next(behind)[0] for _ in range(15)]
        assert max(drawn) < 0.6
        waiting = threading.Thread(target=shared.wait, args=(0.6,), daemon=True)
        waiting.start()
        waiting.join(10)
        assert not waiting.is_alive()


@pytest.mark.parametrize("seconds", [0.4, 1e6], ids=["shared", "too large"])
def test_a_consumer_that_has_left_is_not_awaited(info, seconds):
    with FrameTee(info, seconds=seconds) as shared:
        behind = Behind(shared, count=3)
        with shared.ahead() as pictures:
            next(pictures)
            behind.may.set()
            seen = 1 + len(list(pictures))
            behind.done()
            shared.wait(9.0)
    assert seen == 50


@pytest.mark.parametrize("seconds", [0.4, 1e6], ids=["shared", "too large"])
def test_a_failure_ahead_releases_the_other(info, seconds):
    with FrameTee(info, seconds=seconds) as shared:
        behind = Behind(shared)
        behind.may.set()
        with pytest.raises(KeyboardInterrupt), shared.ahead() as pictures:
            next(pictures)
            raise KeyboardInterrupt
        assert len(behind.done()) == 50
