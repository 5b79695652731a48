"""Exported files: outputs of the model for any number of clips and frames, without the package."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from avsbench_fixtures import read_table
from clip_maker import click, make_clip, picture, tone
from PIL import Image
from small_guided import NAMES, PARTS
from small_networks import SmallVisual

from icf_avs.__main__ import main
from icf_avs.config import ModelConfig
from icf_avs.errors import UserError
from icf_avs.export.export_model import FORMATS, export_command, trace, write
from icf_avs.export.graphs import LogMel, WaveformGraph
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.media.vggish_frontend import log_mel
from icf_avs.networks.build import build_model
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import ClipSpec

ROOT = Path(__file__).parent.parent
SHAPES = ((1, 1), (1, 2), (1, 3), (1, 5), (1, 8), (2, 1), (2, 5), (3, 4))  # clips, frames


def small(semantic: bool = False, **parts: None) -> SegmentationModel:
    torch.manual_seed(0)
    config = ModelConfig(NAMES, dim=32, pixel_dim=16, layers=1, semantic=semantic, **(PARTS | parts))
    names = torch.randn(len(NAMES), 24)
    return build_model(config, ClipSpec(image_size=96, frames=3), SmallVisual(), names).eval()


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    """Model whose masks cover half of the frames of the video below."""
    each = small(semantic=True)
    frames = np.stack([Image.fromarray(picture(number)).resize((96, 96)) for number in (5, 25)])
    waves = torch.from_numpy(tone(0.975, 16_000)).expand(2, -1)
    each.offset.sub_(Predictor(each).predict(torch.from_numpy(frames), waves).logits.median())
    return each


@pytest.fixture(scope="module")
def files(model: SegmentationModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    graph = WaveformGraph(model)
    program = trace(graph)
    for form in FORMATS.values():
        write(graph, program, form, folder / f"small{form.suffix}")
    return {name: folder / f"small{form.suffix}" for name, form in FORMATS.items()}


def test_exported_log_mel_equals_log_mel() -> None:
    """Against `log_mel`, which test_vggish_frontend.py compares with NumPy; tone, noise, silence, full scale."""
    time = np.arange(15_600) / 16_000
    noise = np.random.default_rng(0).normal(0, 0.1, 15_600)
    waves = np.stack([np.sin(2 * np.pi * 440 * time), noise, 0 * time, 0 * time + 1]).astype(np.float32)
    found = LogMel()(torch.from_numpy(waves))
    assert found.shape == (4, 96, 64)
    assert torch.allclose(found, log_mel(torch.from_numpy(waves)), atol=1e-3)  # empty bands beside a loud one


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("off", [(), ("implicit_text",), ("contrastive",), tuple(PARTS)])
def test_the_graph_equals_the_model(off: tuple[str, ...], frames: int) -> None:
    """Every number of frames, whole segments or not, with and without the parts."""
    each = small(**dict.fromkeys(off))
    graph = WaveformGraph(each)
    pictures, waves = graph.example(2, frames)
    with torch.no_grad():
        outputs = dict(zip(graph.outputs, graph(pictures, waves), strict=True))
    for clip in range(2):
        expected = Predictor(each).predict(pictures[clip], waves[clip])
        assert torch.allclose(outputs["logits"][clip], expected.logits, atol=1e-4)
        assert ("heard" in outputs) == (each.network.implicit_text is not None)
        if "heard" in outputs:
            assert torch.allclose(outputs["heard"][clip], expected.heard, atol=1e-4)


def test_the_export_leaves_the_model_alone(model: SegmentationModel) -> None:
    before = list(model.state_dict())
    WaveformGraph(model)
    assert list(model.state_dict()) == before and any(p.requires_grad for p in model.parameters())


@pytest.mark.full
@pytest.mark.parametrize("form", FORMATS)
def test_exported_files_equal_the_model(form: str, files: dict[str, Path], model: SegmentationModel) -> None:
    graph = WaveformGraph(model)
    run = FORMATS[form].run(files[form], graph)
    for clips, frames in SHAPES:
        pictures, waves = graph.example(clips, frames)
        logits, heard, classes = run(pictures, waves)
        assert logits.shape == (clips, frames, 24, 24) and classes.shape == (clips, frames, len(NAMES) + 1, 24, 24)
        for clip in range(clips):
            expected = Predictor(model).predict(pictures[clip], waves[clip])
            assert (logits[clip] - expected.logits).abs().max() < 1e-3
            assert (heard[clip] - expected.heard).abs().max() < 1e-3
            assert (classes[clip] - expected.classes).abs().max() < 1e-3


@pytest.mark.full
def test_exported_files_contain_their_metadata(files: dict[str, Path]) -> None:
    import onnx

    notes = {entry.key: json.loads(entry.value) for entry in onnx.load(files["onnx"]).metadata_props}
    assert notes["spec"]["image_size"] == 96 and notes["words"] == list(NAMES)
    with zipfile.ZipFile(files["torch"]) as archive:
        extra = next(name for name in archive.namelist() if name.endswith("icf-avs.json"))
        told = json.loads(archive.read(extra))
    assert told == {
        "spec": notes["spec"], "words": notes["words"], "classes": notes["classes"],
        "inputs": ["frames", "waves"], "outputs": ["logits", "heard", "classes"],
    }  # fmt: skip
    assert notes["classes"] == ["background", *NAMES]
    assert sorted(path.name for path in files["onnx"].parent.iterdir()) == ["small.onnx", "small.pt2"]


@pytest.mark.full
def test_the_example_gives_the_masks_of_icf_segment(files: dict, model: SegmentationModel, tmp_path: Path) -> None:
    """Without the package: plain, rotated and mirrored videos; audio that is late, early or longer."""
    videos = [make_clip(tmp_path / "clip.mp4", seconds=4.6, fps=10, sound=tone(4.6))]
    turns = [(90, False), (180, False), (-90, False), (0, True), (90, True)]
    for rotation, flip in turns:
        name, size = f"turned{rotation}{flip}.mp4", (160, 120)
        videos.append(make_clip(tmp_path / name, seconds=1.2, size=size, sound=tone(1.2), rotation=rotation, flip=flip))
    for name, begin in (("late", 0.7), ("early", -0.3)):
        sound = click(3, at=1.4, channels=2)
        make_clip(tmp_path / f"{name}.mkv", seconds=2.05, size=(322, 180), sound=sound, sound_at=begin)
        videos.append(tmp_path / f"{name}.mkv")
    code = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'icf_avs', 'PIL', 'scipy')))\n"  # cannot be imported
        "example, model, *videos = sys.argv[1:]\n"
        "for video in videos:\n"
        "    sys.argv = [example, model, video, video + ':masks']\n"
        "    runpy.run_path(example, run_name='__main__')"
    )
    example = ROOT / "examples" / "onnx_segment.py"
    command = [sys.executable, "-c", code, example, files["onnx"], *(path.name for path in videos)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = 0
    for video in videos:
        expected = Segmenter(Predictor(model), "small").segment(video).masks
        paths = sorted((tmp_path / f"{video.name}:masks").iterdir())
        assert len(paths) == len(expected) and 0.01 < expected.mean() < 0.99, video.name
        for path, mask in zip(paths, expected, strict=True):
            image = Image.open(path)
            found = np.asarray(image)
            assert image.mode == "L" and set(np.unique(found)) <= {0, 255}
            assert ((found > 0) == mask).mean() > 0.9995, video.name  # except for rounding of a grey level
        lines += len(paths)
    assert len(done.stdout.splitlines()) == lines


def test_the_example_prints_its_usage(tmp_path: Path) -> None:
    for arguments in ([], ["none.onnx", "none.mp4", "masks"]):
        command = [sys.executable, ROOT / "examples" / "onnx_segment.py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1 and done.stderr.startswith("usage: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_reported_at_once(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}: pip install 'icf-avs\[onnx\]'"):
        export_command("no-such-checkpoint", tmp_path, "onnx")


@pytest.mark.full
def test_the_command_writes_a_card_with_the_scores(tmp_path: Path, monkeypatch, capsys, recwarn) -> None:
    """The shipped model; the command itself compares the outputs of the file."""
    monkeypatch.chdir(ROOT)
    assert main(["export", "stamps", "--out", str(tmp_path / "out")]) == 0
    assert "stamps.onnx" in capsys.readouterr().out and not recwarn.list
    card = (tmp_path / "out" / "README.md").read_text()
    assert "icf train stamps" in card and "Apache-2.0" in card and "<!--" not in card
    rows = read_table(ROOT / "results" / "stamps.csv")
    row = next(row for row in rows if row["audio"] == "true" and row["checkpoint"] == "stamps")
    line = f"| stamps | {row['test_set']} | {row['protocol']} | {row['clips']} | {float(row['miou']):.3f} |"
    assert line in card
