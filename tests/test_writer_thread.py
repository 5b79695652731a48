"""The film beside the masks: it waits for them, stops with them, and its failure stops them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from icf_avs.output.video_writer import WriterThread
from icf_avs.results import FrameMask


def mask(index: int) -> FrameMask:
    return FrameMask(index, float(index), index + 1.0, index + 0.5, 0.0, 0.0, (), {})


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("video-writer")]


def test_pictures_wait_for_their_masks_and_come_in_order():
    drawn = []

    def write(frame_of: Callable[[int], FrameMask], shown: Callable[[int], None]) -> None:
        for index in range(3):
            drawn.append(frame_of(index).index)
            shown(index)

    told = []
    with WriterThread(write) as film:
        time.sleep(0.05)
        assert drawn == []
        film.add(mask(0))
        while film.drawn < 1:
            time.sleep(0.005)
        assert drawn == [0] and threads()
        film.add(mask(1))
        film.add(mask(2))
        film.finish(lambda: told.append(film.drawn))
    assert drawn == [0, 1, 2] and film.drawn == 3 and len(film.frames) == 3
    assert not threads()


def test_masks_that_cease_to_come_end_the_film():
    def write(frame_of: Callable[[int], FrameMask], shown: Callable[[int], None]) -> None:
        for index in range(10):
            frame_of(index)
            shown(index)

    with pytest.raises(KeyboardInterrupt), WriterThread(write) as film:
        film.add(mask(0))
        raise KeyboardInterrupt
    assert not threads() and film.drawn <= 1


def test_the_failure_of_the_film_is_raised_where_masks_are_made():
    def write(frame_of: Callable[[int], FrameMask], shown: Callable[[int], None]) -> None:
        frame_of(0)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), WriterThread(write) as film:
        for index in range(1000):
            film.add(mask(index))
            time.sleep(0.005)
    assert len(film.frames) < 1000 and not threads()
    with pytest.raises(OSError, match="No space"), WriterThread(write) as film:
        film.add(mask(0))
        film.finish(lambda: None)
