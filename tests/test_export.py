"""Exported files: outputs of the model for any number of clips and frames, without the package."""

from __future__ import annotations

import subprocess
import sys
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
from icf_avs.export.graphs import WaveformGraph
from icf_avs.inference.predictor import Predictor
from icf_avs.inference.segment import Segmenter
from icf_avs.networks.build import build_model
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.types import ClipSpec

ROOT = Path(__file__).parent.parent


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
    folder, graph = tmp_path_factory.mktemp("exported"), WaveformGraph(model)
    program, paths = trace(graph), {name: folder / f"small{form.suffix}" for name, form in FORMATS.items()}
    for name, form in FORMATS.items():
        write(graph, program, form, paths[name])
    return paths


@pytest.mark.parametrize("off", [(), ("implicit_text",), ("contrastive",), tuple(PARTS)])
def test_the_graph_equals_the_model(off: tuple[str, ...]) -> None:
    """Every number of frames, whole segments or not, with and without the parts. The model stays as it is."""
    each = small(**dict.fromkeys(off))
    keys, graph = list(each.state_dict()), WaveformGraph(each)
    assert list(each.state_dict()) == keys and any(p.requires_grad for p in each.parameters())
    for frames in (1, 2, 3, 4, 9):
        pictures, waves = graph.example(2, frames)
        with torch.no_grad():
            outputs = dict(zip(graph.outputs, graph(pictures, waves), strict=True))
        assert ("heard" in outputs) == (each.network.implicit_text is not None)
        for clip in range(2):
            expected = Predictor(each).predict(pictures[clip], waves[clip])
            for name in outputs:
                assert torch.allclose(outputs[name][clip], getattr(expected, name), atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("form", FORMATS)
def test_exported_files_equal_the_model(form: str, files: dict[str, Path], model: SegmentationModel) -> None:
    graph = WaveformGraph(model)
    run = FORMATS[form].run(files[form], graph)
    for clips, frames in ((1, 1), (1, 2), (1, 8), (2, 1), (3, 4)):
        pictures, waves = graph.example(clips, frames)
        outputs = run(pictures, waves)
        assert outputs[0].shape == (clips, frames, 24, 24) and outputs[2].shape[2] == len(NAMES) + 1
        for clip in range(clips):
            expected = Predictor(model).predict(pictures[clip], waves[clip])
            for found, name in zip(outputs, ("logits", "heard", "classes"), strict=True):
                assert (found[clip] - getattr(expected, name)).abs().max() < 1e-3


@pytest.mark.full
def test_the_example_gives_the_masks_of_icf_segment(files: dict, model: SegmentationModel, tmp_path: Path) -> None:
    """Without the package: rotated and mirrored videos; audio that is late or early."""
    turned, sound = {"seconds": 1.2, "sound": tone(1.2)}, click(3, at=1.4, channels=2)
    late = {"seconds": 2.05, "size": (322, 180), "sound": sound}
    videos = [
        make_clip(tmp_path / name, **options)
        for name, options in {
            "turned180.mp4": turned | {"rotation": 180}, "mirrored90.mp4": turned | {"rotation": 90, "flip": True},
            "late.mkv": late | {"sound_at": 0.7}, "early.mkv": late | {"sound_at": -0.3},
        }.items()
    ]  # fmt: skip
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'icf_avs', 'PIL', 'scipy'))); "
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for video in videos:
        masks = tmp_path / f"{video.name}:masks"
        command = [sys.executable, "-c", code, ROOT / "examples" / "onnx_segment.py", files["onnx"], video, masks]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        expected = Segmenter(Predictor(model), "small").segment(video).masks
        assert 0.01 < expected.mean() < 0.99, video.name
        for path, mask in zip(sorted(masks.iterdir()), expected, strict=True):
            image = Image.open(path)
            assert image.mode == "L" and {value for _, value in image.getcolors()} <= {0, 255}
            assert ((np.asarray(image) > 0) == mask).mean() > 0.9995, video.name  # a grey level is rounded otherwise


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
    assert f"| stamps | {row['test_set']} | {row['protocol']} | {row['clips']} | {float(row['miou']):.3f} |" in card
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'icf-avs\[onnx\]'"):
        export_command("no-such-checkpoint", tmp_path, "onnx")
