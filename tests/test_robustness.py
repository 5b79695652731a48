"""Robustness scores of two models with known results: one uses the audio perfectly, one ignores it."""

from __future__ import annotations

import csv
import math
import re
import wave

import numpy as np
import pytest
import torch
from listener import Listener

from icf_avs.datasets.layouts import read_set
from icf_avs.errors import UserError
from icf_avs.evaluation.command import ROBUSTNESS, robustness_command
from icf_avs.evaluation.evaluate import AUDIOS, Scorer, evaluate
from icf_avs.evaluation.robustness.audio_reliance import Verdict, interval, judge, worst
from icf_avs.evaluation.robustness.negative_audio import (
    MIXED,
    NEGATIVES,
    SNRS,
    UNKNOWN,
    altered_audio,
    choose_donor,
    mix_frames,
    shifted_frame,
    super_categories,
)
from icf_avs.evaluation.robustness.runner import (
    ALL,
    CHANGED,
    CONDITIONS,
    add_drops_and_g,
    condition_scores,
    evaluate_robustness,
)
from icf_avs.evaluation.test_sets import load_task
from icf_avs.synthetic.catalog import SUPER_CATEGORIES
from icf_avs.types import ClipSpec

S4_KINDS = ["dog_barking", "playing_piano", "helicopter"]


@pytest.fixture
def records(tiny):
    return read_set(tiny.s4("test", S4_KINDS), "test")


@pytest.fixture
def changing(tiny):
    """One clip with a tone and a mask in the first two seconds only."""
    root = tiny.ms3("test", 1)
    data = root / "ms3_data"
    samples = 0.5 * np.sin(2 * np.pi * 200 * np.arange(5 * 16_000) / 16_000)
    samples[2 * 16_000 :] = 0
    with wave.open(str(data / "audio_wav/test/clip_000000.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    for number in range(3, 6):
        tiny.mask(data / "gt_masks/test/clip_000000" / f"clip_000000_{number}.png", 0, 0)
    return root


def test_a_deaf_model_is_distinguished_from_an_oracle(records):
    results = {deaf: evaluate_robustness(Listener(ClipSpec(), deaf=deaf), records) for deaf in (True, False)}
    verdicts = {deaf: judge(result.ious, result.frames, "s4") for deaf, result in results.items()}
    assert verdicts[True].label == "ignores the audio" and verdicts[True].ratio == pytest.approx(1)
    assert verdicts[False].label == "uses the audio" and verdicts[False].ratio == 0
    for deaf, verdict in verdicts.items():
        assert verdict.low == verdict.high == pytest.approx(verdict.ratio)  # all clips are alike
        assert verdict.true == pytest.approx(results[deaf].scores["true", ALL]["miou"], abs=1e-12)
        assert verdict.negative == pytest.approx(results[deaf].scores["offscreen", ALL]["miou"], abs=1e-12)
    assert worst([verdicts[False], verdicts[True]]) is verdicts[True]
    marked = (40 + 80 + 120) / 3 / 224
    root = (math.sqrt(40 / 224) + math.sqrt(80 / 224) + math.sqrt(120 / 224)) / 3
    for audio in NEGATIVES:
        oracle, deaf = results[False].scores[audio, ALL], results[True].scores[audio, ALL]
        assert oracle["miou"] == oracle["fpr"] == oracle["null"] == 0 and oracle["g_miou"] > 0.98
        assert oracle["drop_miou"] > 0.97 and deaf["drop_miou"] == pytest.approx(0) == deaf["drop_f"]
        assert deaf["fpr"] == pytest.approx(marked, abs=0.01) and deaf["null"] == pytest.approx(root, abs=0.01)
        assert deaf["g_miou"] < 0.06 > deaf["g_f"]


def test_robustness_and_evaluation_agree(records):
    model = Listener(ClipSpec(), deaf=True)
    scores = evaluate_robustness(model, records, seed=3).scores
    for audio in AUDIOS[:3]:  # off-screen donors are chosen differently
        for protocol, names in (("strict", ("miou", "f")), ("reference", ("reference_miou", "reference_f"))):
            expected = evaluate(model, records, audio, seed=3)[protocol]
            assert [scores[audio, ALL][name] for name in names] == [expected["miou"], expected["f"]]
            np.testing.assert_equal(scores[audio, ALL]["fpr"], expected["fpr"])


def test_shifted_audio_is_scored_where_sounding_objects_change(changing):
    records = read_set(changing, "test")
    moved = altered_audio(records[0].load(), records, 0, "shifted", 0)
    assert not moved[: 2 * 16_000].any() and moved[2 * 16_000 : 4 * 16_000].std() > 0.3
    assert [shifted_frame(t, 5) for t in range(5)] == [3, 4, 0, 1, 2]
    oracle = evaluate_robustness(Listener(ClipSpec()), records).scores
    deaf = evaluate_robustness(Listener(ClipSpec(), deaf=True), records).scores
    # frames 0-1 fall silent, frames 2-3 begin to sound, frame 4 stays silent
    assert oracle["shifted", CHANGED]["frames"] == oracle["true", CHANGED]["frames"] == 4
    assert oracle["true", CHANGED]["miou"] > 0.97 and oracle["shifted", CHANGED]["miou"] == 0
    assert oracle["shifted", CHANGED]["drop_miou"] > 0.97 and deaf["shifted", CHANGED]["drop_miou"] == pytest.approx(0)
    assert oracle["shifted", CHANGED]["fpr"] == 0
    assert deaf["shifted", CHANGED]["fpr"] == pytest.approx(40 / 224, abs=0.01)


def test_shifted_audio_uses_the_activity_of_each_object(changing):
    header = "video_id,split,seed,index,sounding,onscreen,stamps\n"
    frames = {}
    for name, digits in (("constant", ("11111", "00000")), ("handing over", ("11000", "01111"))):
        stamps = f"animals/dog|dog|{digits[0]};animals/hen|hen|{digits[1]}"
        (changing / "scenes.csv").write_text(f"{header}clip_000000,test,0,0,dog hen,dog hen,{stamps}\n")
        result = evaluate_robustness(Listener(ClipSpec()), read_set(changing, "test"))
        frames[name] = result.scores.get(("shifted", CHANGED), {}).get("frames", result.notes)
    assert frames["handing over"] == 4  # only the last frame hears the same class: hen
    assert "a shift" in " ".join(frames["constant"])


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


def test_noise_levels(records):
    clip = records[0].load()
    level = np.std(altered_audio(clip, records, 0, "noise", 0))
    assert level == pytest.approx(clip.waveform.std(), rel=0.02)
    for db in (10, 40):
        lower = np.std(altered_audio(clip, records, 0, f"noise-{db}db", 0))
        assert 20 * math.log10(lower / level) == pytest.approx(-db, abs=0.01)


def test_added_noise_has_its_signal_to_noise_ratio(records):
    clip = records[0].load()
    for audio, snr in SNRS.items():
        added = altered_audio(clip, records, 0, audio, 0) - clip.waveform
        assert 20 * math.log10(clip.waveform.std() / added.std()) == pytest.approx(snr, abs=0.1)
    clip.samples[:] = 0
    assert not altered_audio(clip, records, 0, "snr-20db", 0).any()


def test_mixed_frames_are_averages_of_two_clips():
    ours, theirs = np.full((5, 2, 2, 3), 100, np.uint8), np.full((5, 2, 2, 3), 201, np.uint8)
    before: set[int] = set()
    for count in range(6):
        mixed = mix_frames(ours, theirs, count, np.random.default_rng(7))
        changed = {place for place in range(5) if (mixed[place] == 150).all()}
        assert len(changed) == count and before <= changed
        assert all((mixed[place] == 100).all() for place in {*range(5)} - changed)
        before = changed
    assert (ours == 100).all()
    with pytest.raises(UserError, match="cannot be mixed"):
        mix_frames(ours, theirs[:, :1], 1, np.random.default_rng(0))


def test_noise_and_mixed_frames_keep_the_ground_truth(records):
    """The tone stays the loudest in noise; in a mixed frame the model mistakes the object for another."""
    scores = evaluate_robustness(Listener(ClipSpec()), records).scores
    drops = {condition: scores[condition, ALL]["drop_miou"] for condition in (*SNRS, *MIXED)}
    assert [drops[condition] for condition in SNRS] == pytest.approx([0, 0, 0])
    assert 0 < drops["mixed-1"] < drops["mixed-2"] < drops["mixed-3"] < drops["mixed-4"]
    assert all(math.isnan(scores[condition, ALL]["g_miou"]) for condition in drops)
    single = evaluate_robustness(Listener(ClipSpec()), records[:1])
    assert ("mixed-1", ALL) not in single.scores and "no frames of another" in " ".join(single.notes)


def test_donors_come_from_another_super_category(tiny):
    kinds = ["dog_barking", "cat_meowing", "playing_piano", "playing_violin", "male_speech"]
    records = read_set(tiny.s4("test", kinds), "test")
    chosen = {choose_donor(records, 0, seed) for seed in range(30)}
    assert chosen == {(2, "music"), (3, "music"), (4, "human")}  # never the cat
    scores = evaluate_robustness(Listener(ClipSpec()), records).scores
    parts = {category for audio, category in scores if audio == "offscreen"} - {ALL}
    assert sum(scores["offscreen", part]["clips"] for part in parts) == 5
    assert all(scores["true", part]["clips"] == scores["offscreen", part]["clips"] for part in parts)


def test_classes_of_unknown_super_category_are_noted(tiny):
    records = read_set(tiny.s4("test", ["dog", "kazoo", "hen"]), "test")
    assert {choose_donor(records, 1, seed) for seed in range(20)} == {(0, UNKNOWN), (2, UNKNOWN)}
    assert {choose_donor(records, 0, seed) for seed in range(20)} == {(1, UNKNOWN), (2, UNKNOWN)}
    assert "merely shares no class" in " ".join(evaluate_robustness(Listener(ClipSpec()), records).notes)
    unknown = read_set(tiny.ms3("test", 2), "test") if not (tiny.root / "s4_meta_data.csv").unlink() else None
    result = evaluate_robustness(Listener(ClipSpec(), deaf=True), unknown)
    assert ("offscreen", ALL) not in result.scores and "2 of 2 clips have no off-screen" in result.notes[0]
    verdict = judge(result.ious, result.frames, "ms3")
    assert verdict.label == "ignores the audio" and verdict.audio == "noise"
    assert result.frames.tolist() == [4, 4]  # the last mask of each is empty
    assert verdict.true == pytest.approx(result.scores["true", ALL]["miou"], abs=1e-12)


def test_every_class_has_a_super_category():
    from icf_avs.evaluation.robustness import negative_audio as categories

    tables = []
    for package, name in categories.CATEGORY_FILES:
        with categories.resources.files(package).joinpath(name).open(encoding="utf-8") as file:
            tables.append({row["class"]: row["super_category"] for row in csv.DictReader(file) if row["class"]})
    public, stamps = tables
    assert len(public) == 92  # 70 classes of AVSS and 23 categories of S4, which share "helicopter"
    assert set(public.values()) == set(SUPER_CATEGORIES)
    assert all(public[kind] == stamps[kind] for kind in public.keys() & stamps.keys())
    assert super_categories(["violin", "badger", "male_speech"]) == {"music", "animal", "human"}
    assert super_categories(["violin", "kazoo"]) is None and super_categories([]) == frozenset()


def test_drop_and_g_score_by_hand():
    true, negative = {"miou": 0.6, "f": 0.7}, {"miou": 0.2, "f": 0.9}
    made = add_drops_and_g({("true", ALL): true, ("noise", ALL): negative, ("shifted", ALL): negative})
    assert made["noise", ALL]["drop_miou"] == pytest.approx(0.4) and made["noise", ALL]["drop_f"] == pytest.approx(-0.2)
    assert made["noise", ALL]["g_miou"] == pytest.approx(2 * 0.6 * 0.8 / 1.4)
    assert math.isnan(made["true", ALL]["g_f"]) and math.isnan(made["shifted", ALL]["g_f"])
    assert made["shifted", ALL]["drop_miou"] == pytest.approx(0.4)


def test_false_positives_are_those_of_silent_frames():
    scorer, probabilities = Scorer(), torch.zeros(2, 4, 4)
    probabilities[0, :2, :2] = 0.9  # 4 of 16 pixels
    probabilities[1] = 0.9
    scorer.update(probabilities, torch.ones(2, 4, 4, dtype=torch.bool), torch.tensor([True, False]))
    scores = condition_scores(scorer)
    assert (scores["clips"], scores["frames"], scores["fpr"], scores["null"]) == (1, 2, 0.25, 0.5)
    assert scores["miou"] == pytest.approx((0.25 + 1) / 2)
    assert math.isnan(condition_scores(Scorer())["miou"])


def judged(true, negative, frames=1) -> Verdict:
    """The verdict for clips with these IoU per frame under true and off-screen audio."""
    kinds = {"true": true, "offscreen": negative, "noise": true}
    return judge({kind: frames * np.array(ious) for kind, ious in kinds.items()}, np.full(len(true), frames), "s4", 0)


def test_the_boundary_is_a_ratio_of_one_half():
    alike = [0.8] * 7
    for left, verb in ((0.41, "ignores"), (0.4, "uses"), (0.39, "uses")):  # identical clips: no spread
        verdict, label = judged(alike, [left] * 7, frames=5), f"{verb} the audio"
        assert verdict.label == label and (verdict.true, verdict.negative) == (pytest.approx(0.8), pytest.approx(left))
        assert "7 clips" in verdict.sentence("m") and label in verdict.sentence("m")
    blind = judged([0.04] * 7, [0.0] * 7)
    assert blind.label == "undecided" and blind.segments_too_little and "too little to tell" in blind.sentence("m")


def test_an_interval_across_the_boundary_is_undecided():
    true = [0.8] * 10
    mixed = judged(true, [0.8] * 6 + [0.0] * 4)  # a ratio of 0.6 from clips of ratio 1 and of ratio 0
    assert mixed.label == "undecided" and mixed.ratio == pytest.approx(0.6) and mixed.low < 0.5 < 0.6 < mixed.high
    assert "m is undecided" in mixed.sentence("m") and f"{mixed.low:.2f} to {mixed.high:.2f}" in mixed.sentence("m")
    assert judged(true * 40, ([0.8] * 6 + [0.0] * 4) * 40).label == "ignores the audio"  # the same share in 400 clips
    assert judged(true, [0.8] + [0.0] * 9).label == "uses the audio"
    single = judged([0.8], [0.8])
    assert single.label == "undecided" and "no interval from a single clip" in single.sentence("m")


def test_the_interval_is_a_bootstrap_over_clips():
    rng = np.random.default_rng(3)
    true, negative = rng.random(30), rng.random(30) * 0.6
    ratios = []
    for _ in range(4000):
        drawn = rng.integers(0, 30, 30)
        ratios.append(negative[drawn].sum() / true[drawn].sum())
    assert interval(true, negative, 1) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.015)
    assert interval(true, negative, 1) == interval(true, negative, 1) != interval(true, negative, 2)
    assert interval(np.array([0.0, 0.5]), np.array([0.3, 0.2]))[1] == math.inf  # a draw may hold the first clip twice
    assert all(map(math.isnan, interval(np.zeros(3), np.zeros(3))))


def test_clips_without_off_screen_audio_are_left_out():
    ious = {"true": np.array([0.2, 4.0, 4.0]), "offscreen": np.array([np.nan, 1.0, 1.0]), "noise": np.zeros(3)}
    verdict = judge(ious, np.array([5, 5, 5]), "s4")
    assert (verdict.clips, verdict.true, verdict.negative, verdict.ratio) == (2, 0.8, 0.2, 0.25)


def test_the_command_writes_a_table_and_prints_a_verdict(tiny, tmp_path, capsys):
    tiny.root = tmp_path / "data/Single-source"
    tiny.s4("test", S4_KINDS)
    tiny.root = tmp_path / "data/Multi-sources"
    tiny.ms3("test", 2)
    model = Listener(ClipSpec(), deaf=True)
    table = tmp_path / "out" / "probe-avsbench.csv"
    robustness_command(load_task(model, "deaf", None, tmp_path / "data", ["s4", "ms3"]), table, clips=2, seed=5)
    assert list(table.parent.iterdir()) == [table]
    rows = ROBUSTNESS.read(table)
    assert tuple(rows[0]) == ROBUSTNESS.columns
    whole = [row["audio"] for row in rows if (row["test_set"], row["category"]) == ("s4", ALL)]
    assert sorted(whole) == sorted(CONDITIONS)
    silence = next(row for row in rows if (row["test_set"], row["audio"]) == ("s4", "silence"))
    assert silence["drop_miou"] == "0.0000" and float(silence["g_miou"]) < 0.06 and silence["seed"] == "5"
    said = capsys.readouterr().out
    assert re.search(r"deaf ignores the audio.*above 0.5 a model ignores the audio", said, re.S)
    assert "95 % interval over clips 1.00 to 1.00" in said and "ms3: 2 of 2 clips have no off-screen sound" in said
    assert "binary mask" not in said  # the model has no class head
    model.semantic = True
    robustness_command(load_task(model, "deaf", None, tmp_path / "data", ["s4"]), table, clips=1, seed=0)
    assert "Scored is the binary mask" in capsys.readouterr().out
    again = ROBUSTNESS.read(table)
    assert {row["clips"] for row in again if row["test_set"] == "s4"} == {"1"}
    assert [row for row in again if row["test_set"] == "ms3"] == [row for row in rows if row["test_set"] == "ms3"]
    table.write_text("a,b\n")
    with pytest.raises(UserError, match="not a table of robustness"):
        robustness_command(load_task(model, "deaf", None, tmp_path / "data", ["s4"]), table, clips=1, seed=0)


def test_the_worst_of_several_sets():
    blind = Verdict("undecided", "s4", "offscreen", 0.01, 0.0, 3, 0.0, 0.0)
    assert worst([blind]) is blind and "too little to tell" in blind.sentence("m")
    listens = Verdict("uses the audio", "ms3", "offscreen", 0.8, 0.3, 3, 0.3, 0.4)
    unsure = Verdict("undecided", "cross", "offscreen", 0.8, 0.7, 3, 0.4, 1.1)
    deaf = Verdict("ignores the audio", "avss", "offscreen", 0.8, 0.6, 3, 0.6, 0.8)
    assert worst([blind, listens]) is listens
    assert worst([listens, unsure, blind]) is unsure
    assert worst([listens, unsure, deaf]) is deaf
