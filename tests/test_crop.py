"""Crops of containers (PixelCrop of Matroska, clean aperture of MP4) apply to masks, overlays and previews."""

from __future__ import annotations

import struct

import av
import numpy as np
import pytest
from clip_maker import make_clip, number_in, picture, tone
from colour_patches import write_patches
from PIL import Image
from witness import Witness

from icf_avs.inference.segment import segment_video
from icf_avs.media.frame_filters import Crop
from icf_avs.media.video_reader import probe, read_frames

WIDTH, HEIGHT = 240, 160  # as stored
CUT = Crop(left=40, right=24, top=16, bottom=22)
SHOWN = WIDTH - 64, HEIGHT - 38


def stored(count):
    """Numbered frames with white borders."""
    frames = []
    for number in range(count):
        image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        image[CUT.top : HEIGHT - CUT.bottom, CUT.left : WIDTH - CUT.right] = picture(number, *SHOWN)
        frames.append(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p"))
    return frames


def matroska(path):
    """File with PixelCrop in place of the tags between the frame size and the codec data."""
    write_patches(path, stored(25), "libx264", tone(1), colorspace=5, color_range=1, color_primaries=1)
    data = bytearray(path.read_bytes())
    at = data.find(b"\xb0\x81\xf0\xba\x81\xa0") + 6  # PixelWidth, PixelHeight
    end = data.find(b"\x55\xee", at)  # the element behind Video
    values = [(0x54CC, CUT.left), (0x54BB, CUT.top), (0x54DD, CUT.right), (0x54AA, CUT.bottom)]
    crop = b"".join(struct.pack(">HBB", key, 0x81, value) for key, value in values)
    padding = end - at - len(crop) - 2
    assert 0 <= padding < 127
    data[at:end] = crop + bytes([0xEC, 0x80 | padding]) + bytes(padding)
    path.write_bytes(data)
    return path


def mp4(path):
    """File with a clap box at the end of the sample entry: crop size, and offset of its centre from the frame's."""
    write_patches(path, stored(25), "libx264", tone(1), colorspace=5)
    data = bytearray(path.read_bytes())
    across, down = CUT.left - CUT.right, CUT.top - CUT.bottom
    clap = struct.pack(">I4s6Ii1I", 40, b"clap", SHOWN[0], 1, SHOWN[1], 1, across & 0xFFFFFFFF, 2, down, 2)
    begin, end, boxes = 0, len(data), []
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        begin = begin + 8 if name == b"avc1" else begin
        while data[begin + 4 : begin + 8] != name:
            begin += struct.unpack_from(">I", data, begin)[0]
        boxes.append(begin)
        end = begin + struct.unpack_from(">I", data, begin)[0]
        begin += 8
    assert data.find(b"mdat") < boxes[0]  # so that no offset moves
    data[end:end] = clap
    for box in boxes:
        struct.pack_into(">I", data, box, struct.unpack_from(">I", data, box)[0] + len(clap))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("made", [matroska, mp4])
def test_cropped_borders_are_in_no_output(tmp_path, made):
    path = made(tmp_path / ("a.mkv" if made is matroska else "a.mp4"))
    info = probe(path)
    assert (info.crop, (info.width, info.height), info.pixel_aspect) == (CUT, SHOWN, 1)
    for time, image in read_frames(info, [0.02, 0.42]):
        assert image.shape == (SHOWN[1], SHOWN[0], 3) and number_in(image) == int(time * 25)
        assert np.abs(image.astype(int) - picture(int(time * 25), *SHOWN))[2:-2, 2:-2].mean() < 6

    model = Witness()
    result = segment_video(model, path, tmp_path / "out")
    assert result.masks.shape == (1, SHOWN[1], SHOWN[0])
    assert model.frames[0].mean() < 140  # without the white borders
    film = probe(result.folder / "overlay.mp4")
    assert (film.width, film.height) == SHOWN
    assert [number_in(image) for _, image in read_frames(film, [0.02, 0.42])] == [0, 10]
    with Image.open(result.folder / "sheet.png") as sheet:
        assert sheet.width - 12 == SHOWN[0]


def test_empty_or_absent_crops_are_ignored(tmp_path):
    assert Crop(50, 50, 0, 0).filter_of(100, 100) is None
    assert Crop(1, 2, 3, 4).filter_of(100, 100) == "97:93:1:3:exact=1"
    assert probe(make_clip(tmp_path / "a.avi", seconds=0.2, codec="mjpeg", pix_fmt="yuvj420p")).crop == Crop()
    assert probe(make_clip(tmp_path / "a.mp4", seconds=0.2)).crop == Crop()
