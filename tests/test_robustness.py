"""Robustness scores of two models with known results: one uses the audio perfectly, one ignores it."""

from __future__ import annotations

import csv
import math
import re
from importlib import resources

import numpy as np
import pytest
from avsbench_fixtures import write_wav
from listener import Listener

from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.evaluation.command import ROBUSTNESS, robustness_command
from icf_avs.evaluation.evaluate import AUDIOS, Scorer, evaluate
from icf_avs.evaluation.robustness import negative_audio, runner
from icf_avs.evaluation.robustness.audio_reliance import Verdict, interval, judge, worst
from icf_avs.evaluation.robustness.runner import ALL, CHANGED, evaluate_robustness
from icf_avs.evaluation.test_sets import load_task
from icf_avs.synthetic.catalog import SUPER_CATEGORIES
from icf_avs.types import ClipSpec

S4_KINDS = ["dog_barking", "playing_piano", "helicopter"]


@pytest.fixture
def records(tiny):
    return read_set(tiny.s4("test", S4_KINDS), "test")


@pytest.mark.parametrize(("deaf", "label"), [(True, "ignores the audio"), (False, "uses the audio")])
def test_a_deaf_model_is_distinguished_from_an_oracle(deaf, label, records):
    result = evaluate_robustness(Listener(ClipSpec(), deaf=deaf), records)
    verdict = judge(result.ious, result.frames, "s4")
    assert verdict.label == label and verdict.ratio == pytest.approx(float(deaf))
    assert verdict.low == verdict.high == pytest.approx(verdict.ratio)  # all clips are alike
    for audio, miou in (("true", verdict.true), ("offscreen", verdict.negative)):
        assert miou == pytest.approx(result.scores[audio, ALL]["miou"], abs=1e-12)
    shares = np.array([40, 80, 120]) / 224
    for audio in negative_audio.NEGATIVES:
        scores = result.scores[audio, ALL]
        if deaf:
            assert scores["drop_miou"] == scores["drop_f"] == pytest.approx(0)
            assert scores["g_miou"] < 0.06 > scores["g_f"]
            assert scores["fpr"] == pytest.approx(shares.mean(), abs=0.01)
            assert scores["null"] == pytest.approx(np.sqrt(shares).mean(), abs=0.01)
        else:
            assert scores["miou"] == scores["fpr"] == scores["null"] == 0
            assert scores["g_miou"] > 0.98 and scores["drop_miou"] > 0.97


def test_robustness_and_evaluation_agree(records):
    model = Listener(ClipSpec(), deaf=True)
    scores = evaluate_robustness(model, records, seed=3).scores
    for audio in AUDIOS[:3]:  # off-screen donors are chosen differently
        for protocol, names in (("strict", ("miou", "f")), ("reference", ("reference_miou", "reference_f"))):
            expected = evaluate(model, records, audio, seed=3)[protocol]
            assert [scores[audio, ALL][name] for name in names] == [expected["miou"], expected["f"]]
            np.testing.assert_equal(scores[audio, ALL]["fpr"], expected["fpr"])


def test_shifted_audio_is_scored_where_sounding_objects_change(tiny):
    """A clip with a tone and a mask in the first two seconds only."""
    data = tiny.ms3("test", 1) / "ms3_data"
    tone = 16_000 * np.sin(2 * np.pi * 200 * np.arange(5 * 16_000) / 16_000) * (np.arange(5 * 16_000) < 2 * 16_000)
    write_wav(data / "audio_wav/test/clip_000000.wav", tone.astype(np.int16))
    for number in range(3, 6):
        tiny.mask(data / "gt_masks/test/clip_000000" / f"clip_000000_{number}.png", 0, 0)
    records = read_set(tiny.root, "test")
    moved = negative_audio.altered_audio(records[0].load(), records, 0, "shifted", 0)
    assert not moved[: 2 * 16_000].any() and moved[2 * 16_000 : 4 * 16_000].std() > 0.3
    assert [negative_audio.shifted_frame(t, 5) for t in range(5)] == [3, 4, 0, 1, 2]
    oracle, deaf = (evaluate_robustness(Listener(ClipSpec(), deaf), records).scores for deaf in (False, True))
    # frames 0-1 fall silent, frames 2-3 begin to sound, frame 4 stays silent
    true, moved = oracle["true", CHANGED], oracle["shifted", CHANGED]
    assert moved["frames"] == true["frames"] == 4 and moved["drop_miou"] > 0.97 < true["miou"]
    assert moved["miou"] == moved["fpr"] == 0 == pytest.approx(deaf["shifted", CHANGED]["drop_miou"])
    assert deaf["shifted", CHANGED]["fpr"] == pytest.approx(40 / 224, abs=0.01)


def test_condition_blank_keeps_the_audio(records):
    seen = []

    class Model(Listener):
        def predict(self, frames, waves):
            seen.append((frames.unique().tolist(), waves.abs().max().item()))
            return super().predict(frames, waves)

    scores = evaluate_robustness(Model(ClipSpec(), deaf=True), records[:1]).scores
    grey, loudest = seen[-1]
    assert grey == [128] and loudest == pytest.approx(9000 / 32768, abs=0.01)
    assert scores["blank", ALL]["fpr"] == pytest.approx(160 / 224, abs=0.01)  # what it marks in a grey frame


def test_levels_of_noise_and_of_added_noise(records):
    clip = records[0].load()
    loudness, noise = clip.waveform.std(), negative_audio.altered_audio(clip, records, 0, "noise", 0).std()
    assert noise == pytest.approx(loudness, rel=0.02)
    for db in (10, 40):
        lower = negative_audio.altered_audio(clip, records, 0, f"noise-{db}db", 0).std()
        assert 20 * math.log10(lower / noise) == pytest.approx(-db, abs=0.01)
    for audio, snr in negative_audio.SNRS.items():
        added = negative_audio.altered_audio(clip, records, 0, audio, 0) - clip.waveform
        assert 20 * math.log10(loudness / added.std()) == pytest.approx(snr, abs=0.1)
    clip.samples[:] = 0
    assert not negative_audio.altered_audio(clip, records, 0, "snr-20db", 0).any()


def test_mixed_frames_are_averages_of_two_clips():
    ours, theirs = np.full((5, 2, 2, 3), 100, np.uint8), np.full((5, 2, 2, 3), 201, np.uint8)
    before: set[int] = set()
    for count in range(6):
        mixed = negative_audio.mix_frames(ours, theirs, count, np.random.default_rng(7))
        changed = {place for place in range(5) if (mixed[place] == 150).all()}
        assert len(changed) == count and before <= changed
        assert all((mixed[place] == 100).all() for place in {*range(5)} - changed)
        before = changed
    with pytest.raises(UserError, match="cannot be mixed"):
        negative_audio.mix_frames(ours, theirs[:, :1], 1, np.random.default_rng(0))


def test_noise_and_mixed_frames_keep_the_ground_truth(records):
    """The tone stays the loudest in noise; in a mixed frame the model mistakes the object for another."""
    scores = evaluate_robustness(Listener(ClipSpec()), records).scores
    drops = {name: scores[name, ALL]["drop_miou"] for name in (*negative_audio.SNRS, *negative_audio.MIXED)}
    assert [drops[name] for name in negative_audio.SNRS] == pytest.approx([0, 0, 0])
    assert 0 < drops["mixed-1"] < drops["mixed-2"] < drops["mixed-3"] < drops["mixed-4"]
    assert all(math.isnan(scores[name, ALL]["g_miou"]) for name in drops)
    single = evaluate_robustness(Listener(ClipSpec()), records[:1])
    assert ("mixed-1", ALL) not in single.scores and "no frames of another" in " ".join(single.notes)


def test_donors_come_from_another_super_category(tiny):
    kinds = ["dog_barking", "cat_meowing", "playing_piano", "playing_violin", "male_speech"]
    records = read_set(tiny.s4("test", kinds), "test")
    chosen = {negative_audio.choose_donor(records, 0, seed) for seed in range(30)}
    assert chosen == {(2, "music"), (3, "music"), (4, "human")}  # never the cat
    scores = evaluate_robustness(Listener(ClipSpec()), records).scores
    parts = {category for audio, category in scores if audio == "offscreen"} - {ALL}
    assert sum(scores["offscreen", part]["clips"] for part in parts) == 5
    assert all(scores["true", part]["clips"] == scores["offscreen", part]["clips"] for part in parts)


def test_classes_of_unknown_super_category_are_noted(tiny):
    records = read_set(tiny.s4("test", ["dog", "kazoo", "hen"]), "test")
    assert {negative_audio.choose_donor(records, 1, seed) for seed in range(20)} == {(0, "unknown"), (2, "unknown")}
    assert "merely shares no class" in " ".join(evaluate_robustness(Listener(ClipSpec()), records).notes)


def test_noise_decides_where_no_sound_is_known_to_be_off_screen(tiny):
    result = evaluate_robustness(Listener(ClipSpec(), deaf=True), read_set(tiny.ms3("test", 2), "test"))
    assert ("offscreen", ALL) not in result.scores and "2 of 2 clips have no off-screen" in result.notes[0]
    verdict = judge(result.ious, result.frames, "ms3")
    assert (verdict.label, verdict.audio) == ("ignores the audio", "noise")
    assert result.frames.tolist() == [4, 4]  # the last mask of each is empty


def test_every_class_has_a_super_category():
    public, stamps = (
        {row["class"]: row["super_category"] for row in csv.DictReader(text.splitlines()) if row["class"]}
        for text in [resources.files(at).joinpath(name).read_text() for at, name in negative_audio.CATEGORY_FILES]
    )
    assert len(public) == 92  # 70 classes of AVSS and 23 categories of S4, which share "helicopter"
    assert set(public.values()) == set(SUPER_CATEGORIES)
    assert all(public[kind] == stamps[kind] for kind in public.keys() & stamps.keys())
    assert negative_audio.super_categories(["violin", "badger", "male_speech"]) == {"music", "animal", "human"}
    assert negative_audio.super_categories(["violin", "kazoo"]) is None
    assert negative_audio.super_categories([]) == frozenset()


def test_drop_and_g_score_by_hand():
    true, negative = {"miou": 0.6, "f": 0.7}, {"miou": 0.2, "f": 0.9}
    made = runner.add_drops_and_g({("true", ALL): true, ("noise", ALL): negative, ("shifted", ALL): negative})
    assert made["noise", ALL]["drop_miou"] == pytest.approx(0.4) and made["noise", ALL]["drop_f"] == pytest.approx(-0.2)
    assert made["noise", ALL]["g_miou"] == pytest.approx(2 * 0.6 * 0.8 / 1.4)
    assert math.isnan(runner.condition_scores(Scorer())["miou"])
    assert math.isnan(made["true", ALL]["g_f"]) and math.isnan(made["shifted", ALL]["g_f"])
    assert made["shifted", ALL]["drop_miou"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("clips", "label", "told"),
    [  # of each clip: IoU under its own and under off-screen audio
        ([(0.8, 0.41)] * 7, "ignores the audio", "m ignores the audio"),  # identical clips: no spread
        ([(0.8, 0.4)] * 7, "uses the audio", "7 clips"),
        ([(0.04, 0.0)] * 7, "undecided", "too little to tell"),
        ([(0.8, 0.8)] * 6 + [(0.8, 0.0)] * 4, "undecided", "m is undecided"),  # a ratio of 0.6, with a wide interval
        ([(0.8, 0.8)] * 240 + [(0.8, 0.0)] * 160, "ignores the audio", "400 clips"),
        ([(0.8, 0.8)] + [(0.8, 0.0)] * 9, "uses the audio", "10 clips"),
        ([(0.8, 0.8)], "undecided", "no interval from a single clip"),
        ([(0.04, np.nan), (0.8, 0.2), (0.8, 0.2)], "uses the audio", "2 clips"),  # one without off-screen audio
    ],
)
def test_the_boundary_is_a_ratio_of_one_half(clips, label, told):
    true, negative = 5 * np.array(clips).T
    verdict = judge({"true": true, "offscreen": negative, "noise": true}, np.full(len(true), 5), "s4", 0)
    assert verdict.label == label and told in verdict.sentence("m")
    known = ~np.isnan(negative)
    assert verdict.true == pytest.approx(true[known].mean() / 5) and verdict.clips == known.sum()
    assert verdict.negative == pytest.approx(negative[known].mean() / 5)
    if "m is undecided" in told:
        assert verdict.low < 0.5 < 0.6 < verdict.high
        assert f"{verdict.low:.2f} to {verdict.high:.2f}" in verdict.sentence("m")


def test_the_interval_is_a_bootstrap_over_clips():
    rng = np.random.default_rng(3)
    true, negative = rng.random(30), rng.random(30) * 0.6
    drawn = rng.integers(0, 30, (4000, 30))
    ratios = negative[drawn].sum(1) / true[drawn].sum(1)
    assert interval(true, negative, 1) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.015)
    assert interval(true, negative, 1) == interval(true, negative, 1) != interval(true, negative, 2)
    assert interval(np.array([0.0, 0.5]), np.array([0.3, 0.2]))[1] == math.inf  # a draw may hold the first clip twice
    assert all(map(math.isnan, interval(np.zeros(3), np.zeros(3))))


def test_the_command_writes_a_table_and_prints_a_verdict(tiny, tmp_path, capsys):
    tiny.root = tmp_path / "data/Single-source"
    tiny.s4("test", S4_KINDS)
    tiny.root = tmp_path / "data/Multi-sources"
    tiny.ms3("test", 2)
    model, table = Listener(ClipSpec(), deaf=True), tmp_path / "out" / "probe-avsbench.csv"

    def probe(*sets, **options):
        robustness_command(load_task(model, "deaf", None, tmp_path / "data", [*sets]), table, **options)
        return capsys.readouterr().out

    said, rows = probe("s4", "ms3", clips=2, seed=5), ROBUSTNESS.read(table)
    whole = {row["audio"]: row for row in rows if (row["test_set"], row["category"]) == ("s4", ALL)}
    assert set(whole) == set(runner.CONDITIONS)
    assert (whole["silence"]["drop_miou"], whole["silence"]["seed"]) == ("0.0000", "5")
    assert re.search(r"deaf ignores the audio.*above 0.5 a model ignores the audio", said, re.S)
    assert "95 % interval over clips 1.00 to 1.00" in said and "ms3: 2 of 2 clips have no off-screen sound" in said
    assert "binary mask" not in said
    model.semantic = True  # a class head, which is not scored
    assert "Scored is the binary mask" in probe("s4", clips=1, seed=0)
    again = ROBUSTNESS.read(table)
    assert {row["clips"] for row in again if row["test_set"] == "s4"} == {"1"}
    assert [row for row in again if row["test_set"] == "ms3"] == [row for row in rows if row["test_set"] == "ms3"]


def test_the_worst_of_several_sets():
    given = [("undecided", 0.01), ("uses the audio", 0.8), ("undecided", 0.8), ("ignores the audio", 0.8)]
    blind, listens, unsure, deaf = (Verdict(label, "s4", "offscreen", true, 0.5 * true, 3) for label, true in given)
    assert worst([blind]) is blind and worst([blind, listens]) is listens
    assert worst([listens, unsure, blind]) is unsure and worst([listens, unsure, deaf]) is deaf
