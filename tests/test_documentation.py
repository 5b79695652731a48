"""The commands and the Python of documents run, on small files and with small networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from avsbench_fixtures import NAMES, read_table, write_avss, write_left_third, write_ms3, write_s4
from clip_maker import make_clip, tone
from compose_material import write_material
from documents import ROOT, blocks, commands, notebook_code, read, run_document, run_shell, understood
from listener import Listener, loads
from metric_oracles import oracle_reference
from reduced_encoders import use_reduced_encoders
from torch.nn.functional import normalize

from icf_avs.config import DataConfig, TrainConfig
from icf_avs.encoders import registry
from icf_avs.encoders.text_encoders import MINILM_DIM
from icf_avs.score_tables import SCORES
from icf_avs.synthetic.benchmark import write_stamps
from icf_avs.synthetic.catalog import Catalog
from icf_avs.training.recipes import RECIPES
from icf_avs.types import ClipSpec

DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))
SPLITS = ("train", "train", "val", "test", "test")


def shrunk(make: Callable[[], TrainConfig]) -> Callable[[], TrainConfig]:
    """The same recipe with two steps of a narrow network on small frames."""
    config = make()
    return lambda: replace(
        config, model=replace(config.model, dim=32, pixel_dim=16, heads=4, layers=1),
        icf=config.icf and replace(config.icf, mit=config.icf.mit and replace(config.icf.mit, dim=32, width=16)),
        data=DataConfig(images=8, clips=2, highres_images=2, highres_clips=1, validation=4),
        spec=replace(config.spec, image_size=64), batch=2 * config.spec.frames, steps=2, highres_size=96,
        audio_pretrain_steps=min(config.audio_pretrain_steps, 1), highres_steps=min(config.highres_steps, 1),
    )  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Working folder with street.mp4, short runs, narrow networks, random name embeddings."""
    use_reduced_encoders(monkeypatch)
    for name, make in list(RECIPES.items()):
        monkeypatch.setitem(RECIPES, name, shrunk(make))
    monkeypatch.setattr(TrainConfig, "audio_pretrain_steps", 1)  # of encoders chosen on the command line
    vectors = normalize(torch.randn(1000, MINILM_DIM, generator=torch.Generator().manual_seed(1)), dim=-1)
    monkeypatch.setitem(registry.TEXT, "minilm", lambda names: vectors[: len(names)])
    monkeypatch.setattr("icf_avs.datasets.custom_dataset.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    make_clip(tmp_path / "street.mp4", seconds=3, fps=10, size=(320, 240), sound=tone(3))
    return tmp_path


def scored() -> set[tuple[str, str, str]]:
    return {(row["checkpoint"], row["test_set"], row["protocol"]) for row in read_table("results/avsbench.csv")}


@pytest.mark.full
def test_own_video(small: Path):
    names = run_document(read("docs/OWN_VIDEO.md"))
    assert len(names["result"]) == 6 and names["result"].masks.shape == (6, 240, 320)
    written = {path.name for path in (small / "masks/street").iterdir()}
    assert {"overlay.mp4", "masks", "segmentation.json", "sheet.png", "coco.json"} <= written
    assert len((small / "all/failures.csv").read_text().splitlines()) == 1, "a header and no failure"


@pytest.mark.full
def test_python(small: Path):
    names = run_document(read("docs/PYTHON.md"))
    assert len(names["result"]) == 6 and names["same"].masks.shape == (3, 240, 320)


def test_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names = run_document(read("docs/PLUG_IN.md"))
    assert torch.isfinite(names["loss"]) and set(names["extra"].terms) >= {"pull", "noise", "vision-text"}


@pytest.mark.full
def test_avsbench(small: Path):
    root = small / "AVSBench"
    write_s4(root / "Single-source", [(f"clip-{i:06d}", 3, "dog", split) for i, split in enumerate(SPLITS)])
    write_ms3(root / "Multi-sources", [(f"many-{i:06d}", split) for i, split in enumerate(SPLITS)])
    parts = enumerate(zip(SPLITS, ("v1s", "v1m", "v2", "v2", "v1m"), strict=True))
    rows = [(f"v{i}", f"v{i}_0_5000", 0, 0, NAMES[1 + i % 2], split, part) for i, (split, part) in parts]
    write_avss(root / "AVSS", rows)
    names = run_document(read("docs/AVSBENCH.md"))
    assert names["clip"].frames.shape == (5, 224, 224, 3) and 0 <= names["scores"]["strict"]["miou"] <= 1
    expected = {("s4-pvt", "s4", "reference"), ("ms3-from-s4", "ms3", "reference-b1-t0.4")}
    assert expected | {("avss-pvt", "avss", "classes-argmax")} <= scored()


@pytest.mark.full
def test_own_data(small: Path, catalog: Catalog):
    (small / "own/videos").mkdir(parents=True)
    for name in ("NAME", "dog-1", "dog-2", "dog-3"):
        make_clip(small / f"own/videos/{name}.mp4", seconds=2, fps=10, size=(192, 120), sound=tone(2))
        write_left_third(small / f"own/masks/{name}/000000.png", 1)
    (small / "own/classes.txt").write_text("dog\n")
    images = {"dog": "dog", "horse": "horse", "owl": "bird", "cow": "clock"}
    write_material(small, catalog, images, images | {"owl": "chirping_birds", "cow": "clock_tick"})
    run_document(read("docs/OWN_DATA.md"))
    assert (small / "runs/own-longer/own-longer.safetensors").is_file()
    assert {("own", "own", "strict"), ("composed", "avss", "classes-argmax")} <= scored()
    assert {"bird", "clock", "dog", "horse"} <= set((small / "named/AVSS/label2idx.json").read_text().split('"'))


@pytest.mark.full
def test_guided_python(small: Path, capsys: pytest.CaptureFixture[str]):
    names = run_document(read("docs/GUIDED_PYTHON.md"))
    assert names["without_sc"].name == "stamps-quick-mit-cdcl" and names["cosine"].abs().max() < 1e-3
    printed = capsys.readouterr().out
    assert "do(audio := silence): tensor([0., 0., 0., 0., 0.])" in printed, "the shipped model marks nothing in silence"
    factual = next(line for line in printed.splitlines() if line.startswith("do(audio := factual)"))
    assert max(map(float, re.findall(r"\d\.\d+", factual))) > 0.005, factual
    assert names["output"].reading.shape[-1] == len(names["words"])


@pytest.mark.full
def test_results(small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("sets")
    write_stamps(root, seed=0, test=2, video=False)
    monkeypatch.setattr("icf_avs.evaluation.test_sets.default_sets", lambda split: root)
    run_document(read("docs/RESULTS.md"))
    assert (small / "results/try.csv").is_file() and (small / "results/try/probe.csv").is_file()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *DOCUMENTS])
def test_every_command_parses_and_every_link_has_a_target(name: str):
    for block in blocks(read(name)):
        for line in commands(block.code) if block.language in ("sh", "") else ():
            if line.startswith(("icf ", ".venv/bin/icf ", "accelerate launch -m icf_avs")):
                assert callable(understood(line).run), line
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", read(name)):
        assert (ROOT / name).parent.joinpath(target).exists(), target


@pytest.mark.full
@pytest.mark.parametrize("name", ["negative_sounds", "guided_network"])
def test_notebooks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = notebook_code(ROOT / f"notebooks/{name}.ipynb")
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": name}
    with torch.enable_grad():  # a notebook may switch gradients off
        exec(compile(code, name, "exec"), names)
    assert len([*(tmp_path / "notebook_out").glob(f"{name}-*.png")]) >= 2
    shares, least = names["shares"], 3 * names["shares"]["silence"] if name == "negative_sounds" else 0
    assert shares["silence"] < 0.002 and 0.002 + least < shares["its own"], shares


PROTOCOLS = read("docs/PROTOCOLS.md").split("## Who scores how\n")[1].split("\n## ")[0]
COMMANDS = sorted(set(re.findall(r"`(icf [^`]+)`", PROTOCOLS)))


def test_commands_of_protocols_parse():
    assert len(COMMANDS) == 9 and all(understood(command).data.parts[0] == "AVSBench" for command in COMMANDS)


@pytest.mark.full
def test_commands_of_protocols_write_the_rows_that_the_table_names(tiny, tmp_path: Path, monkeypatch):
    """With a model that segments the tiny sets by their tones."""
    tiny.root = tmp_path / "AVSBench/Single-source"
    tiny.s4("test", ["dog_barking", "playing_piano"])
    tiny.root = tmp_path / "AVSBench/Multi-sources"
    tiny.ms3("test", 1)
    monkeypatch.chdir(tmp_path)
    loads(Listener(ClipSpec()), monkeypatch, "listener")
    run_shell("\n".join(command for command in COMMANDS if "train" not in command and "avss" not in command))
    written = {(row["test_set"], row["protocol"]) for row in SCORES.read(tmp_path / "results/avsbench.csv")}
    assert {test_set for test_set, _ in written} == {"s4", "ms3", "s4-512", "ms3-512", "s4-native", "ms3-native"}
    assert ("s4", "reference-b1-t0.4") in written and (tmp_path / "results/probe-avsbench.csv").is_file()
    named = re.findall(r"`((?:reference|strict|dataset)[\w.-]*|s4-\w+|ms3-\w+)`", PROTOCOLS)
    assert len(named) > 5 and not set(named) - {name for pair in written for name in pair}


def test_python_of_protocols():
    """IoU of the masks and maximum of F, both the mean over clips; the rules of marking in NumPy."""
    rng = np.random.default_rng(0)
    logits, classes, masks = (
        rng.normal(size=(3, 5, *shape)).astype(np.float32) for shape in ((2, 8, 9), (6, 3), (6, 8, 9))
    )
    truth = np.float32(rng.random((3, 5, 8, 9)) < 0.4)
    truth[1, 2:] = 0
    shares = np.exp(classes) / np.exp(classes).sum(-1, keepdims=True)
    nothing, thing = ((shares[..., c, None, None] / (1 + np.exp(-masks))).sum(2) for c in (0, 1))
    off, on = logits[:, :, 0], logits[:, :, 1]
    for heading, given, marked, score in (
        ("Python, two logits", (logits,), on > off, 2 * on - off),
        ("Python, sums over queries", (classes, masks), thing > nothing, thing - nothing),
    ):
        names: dict = {"clips": list(zip(*map(torch.from_numpy, (*given, truth)), strict=True))}
        exec(next(block.code for block in blocks(PROTOCOLS) if block.heading == heading), names)
        miou, _ = oracle_reference([*zip(marked, truth, strict=True)], batch_size=1, threshold=0.5)
        _, f = oracle_reference([*zip(1 / (1 + np.exp(-score)), truth, strict=True)], batch_size=1, threshold=0.5)
        assert (names["miou"], names["f"]) == pytest.approx((miou, f), abs=1e-6)
