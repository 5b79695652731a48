"""Audio of a clip of a public set, from a wave file, log-mel windows or the raw video."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import avsbench_fixtures as fixtures
import numpy as np
import pytest
from public_sets import SPEC

from icf_avs.datasets.dataset import ClipDataset, common_audio
from icf_avs.datasets.layouts import read_set
from icf_avs.encoders.registry import ACCEPTS_LOG_MEL
from icf_avs.errors import UserError
from icf_avs.evaluation.audio_input import to_model_audio
from icf_avs.media.audio_windows import cut_windows


def test_log_mel_of_a_clip(home) -> None:
    for folder in ("Single-source", "Multi-sources"):
        record = read_set(home[0] / folder, "test")[0]
        clip = record.load(audio="log_mel")
        assert clip.log_mel.shape == (5, 96, 64) and clip.log_mel.dtype == np.float32
        samples = np.round(record.load().waveform * 32768).astype(np.int16)
        np.testing.assert_allclose(clip.log_mel, fixtures.log_mel(samples)[:, 0], atol=2e-3)
        with pytest.raises(UserError, match="log-mel windows only"):
            _ = clip.waveform


def test_audio_comes_from_the_first_available_source(tmp_path) -> None:
    (truth,) = fixtures.write_ms3(tmp_path, [("video______", "test")])
    frames = [frame[:120, :160] for frame in truth.frames for _ in range(10)]
    stereo = np.stack([truth.samples, np.zeros_like(truth.samples)], 1)
    fixtures.write_video(tmp_path / "raw_videos/video______.mp4", frames, Fraction(10), stereo)
    (record,) = read_set(tmp_path, "test")
    assert record.sources() == ["wav", "video", "log_mel"]
    from_wav, from_video = record.load().waveform, record.load(audio="video").waveform
    assert abs(len(from_video) - 80_000) < 2048  # AAC pads its last frame
    tail = slice(8000, 72_000)
    np.testing.assert_allclose(from_video[tail], from_wav[tail] / 2, atol=0.01)  # mean of the two channels
    record.audio_path.unlink()
    assert record.load().log_mel is None and record.load().samples is not None, "waves of the video before log-mel"
    record.video_path.unlink()
    (record,) = read_set(tmp_path, "test")
    assert record.load().samples is None and record.load().log_mel is not None
    record.log_mel_path.unlink()
    with pytest.raises(UserError, match=r"audio_wav/test is missing|______\.wav is missing"):
        record.load(audio="wav")
    with pytest.raises(UserError, match=r"video______\.pkl is missing"):
        record.load(audio="log_mel")


def test_audio_comes_from_the_requested_source(home, tmp_path) -> None:
    (record,) = read_set(home[0] / "Single-source", "test", "log_mel")
    assert record.load().samples is None and record.load().sound.shape == (5, 96, 64) and not record.has_waveform
    assert record.load(audio="wav").log_mel is None and record.load(audio="wav").sound.shape == (80_000,)
    (preferred,) = read_set(home[0] / "Single-source", "test")
    assert preferred.has_waveform and preferred.load().log_mel is None
    fixtures.write_ms3(tmp_path, [("video______", "test")])
    (record,) = read_set(tmp_path, "test")
    record.audio_path.unlink()
    assert not record.has_waveform and record.load().samples is None
    with pytest.raises(UserError, match=r"no sound of clip video______: its video in raw_videos is missing"):
        read_set(tmp_path, "test", "video")[0].load()


def test_model_input_is_waveforms_or_log_mel(home) -> None:
    """Any model gets waveform windows; a model whose audio encoder accepts log-mel may get log-mel windows."""
    (record,) = read_set(home[0] / "Single-source", "test")
    wave, log_mel = record.load().sound, record.load(audio="log_mel").sound
    waves_alone, takes_both = (SimpleNamespace(spec=SPEC, encoders={}) for _ in range(2))
    np.testing.assert_array_equal(to_model_audio(waves_alone, wave, 5), cut_windows(wave, SPEC, 5))
    for takes_both.encoders["audio"] in ACCEPTS_LOG_MEL:
        np.testing.assert_array_equal(to_model_audio(takes_both, wave, 5), cut_windows(wave, SPEC, 5))
        np.testing.assert_array_equal(to_model_audio(takes_both, log_mel, 5), log_mel)
    with pytest.raises(UserError, match="log-mel windows only, and the model takes waveforms"):
        to_model_audio(waves_alone, log_mel, 5)


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 1), (48_000, 2), (8_000, 1)])
def test_other_sample_rates_are_resampled(tmp_path, rate, channels) -> None:
    fixtures.write_ms3(tmp_path, [("video______", "test")])
    time = np.arange(5 * rate) / rate
    high = 10_000 if rate > 20_000 else 3_000  # above 8 kHz: must be removed, not aliased to 6 kHz
    wave = 8000 * np.sin(2 * np.pi * 1000 * time) + 8000 * np.sin(2 * np.pi * high * time)
    samples = np.stack([wave] * channels, 1).astype(np.int16)
    (record,) = read_set(tmp_path, "test")
    fixtures.write_wav(record.audio_path, samples, rate, channels)
    found = record.load().waveform
    assert abs(len(found) - 80_000) <= 16
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found)))) / len(found) * 4
    hertz = np.fft.rfftfreq(len(found), 1 / 16_000)
    assert spectrum[np.abs(hertz - 1000).argmin()] == pytest.approx(8000 / 32768, rel=0.02)
    if high == 10_000:
        assert spectrum[hertz > 1100].max() < 8000 / 32768 / 300  # 50 dB below
    else:
        assert spectrum[np.abs(hertz - 3000).argmin()] == pytest.approx(8000 / 32768, rel=0.05)


def test_all_clips_use_the_same_audio_source(tmp_path) -> None:
    fixtures.write_ms3(tmp_path, [(f"video_____{i}", "test") for i in range(3)])
    records = read_set(tmp_path, "test")
    assert common_audio(records) == "wav"
    with pytest.raises(UserError, match=r"video_____0 has no video, .* but wav and log_mel; unpack all of raw_videos"):
        ClipDataset(records, (), SPEC, "video")
    records[1].audio_path.unlink()
    assert common_audio(records) == "log_mel"
    records[2].log_mel_path.unlink()
    with pytest.raises(UserError, match="video_____2 has no log_mel"):
        ClipDataset(records, (), SPEC)
