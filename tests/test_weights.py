"""Where weights are searched, messages without a network, and the registry of encoders."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, hub_in

import icf_avs
from icf_avs import console
from icf_avs.__main__ import main
from icf_avs.encoders import ast_tagger, efficientat, registry, vggish, voc_segmenter, weights
from icf_avs.encoders.hf_backbones import BACKBONES
from icf_avs.encoders.text_encoders import CLIP, PUBLISHED
from icf_avs.errors import UserError

REPO, PINNED = "OpenGVLab/pvt_v2_b5", "laion/clap-htsat-unfused"


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)


def filled(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def cached(tmp_path: Path, repo: str, weights_file: str) -> Path:
    """Write a snapshot of `repo` in the layout of the hub client's cache; return its folder."""
    model = tmp_path / "hf" / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = filled(model / "snapshots" / ("0" * 40), "config.json", weights_file)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    return snapshot


def offline(tmp_path: Path, code: str) -> str:
    """Output of `code` in a new process that is offline and has its caches below tmp_path."""
    places = {"HF_HOME": str(tmp_path / "hf"), "TORCH_HOME": str(tmp_path / "torch")}
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1]), **places}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_offline_missing_weights_give_the_download_command(tmp_path: Path) -> None:
    said = offline(
        tmp_path,
        "from icf_avs.encoders.registry import build_audio, build_visual, embed_names\n"
        "from icf_avs.errors import UserError\n"
        "calls = [(build_visual, n) for n in ('pvt-v2-b5', 'resnet-50', 'swin-b')]\n"
        "for call, *arguments in [*calls, (build_audio, 'vggish', 8), (embed_names, 'clip', ('dog',))]:\n"
        "    try: call(*arguments)\n"
        "    except UserError as error: print(error)\n",
    )
    lines = said.splitlines()
    assert len(lines) == 5
    hubs = ("OpenGVLab/pvt_v2_b5", "microsoft/resnet-50", "microsoft/swin-base-patch4-window7-224-in22k")
    for line, repo in zip([*lines[:3], lines[4]], [*hubs, "openai/clip-vit-base-patch32"], strict=True):
        folder, revision = f"weights/{repo.partition('/')[2]}", weights.REVISIONS[repo]
        pinned = f" --revision {revision}" if revision else ""
        assert f"hf download {repo}{pinned} --local-dir {folder} && export ICF_WEIGHTS_DIR=weights" in line
    assert "curl -L --create-dirs -o weights/vggish-10086976.pth https://" in lines[3]


def test_offline_the_hub_cache_is_used(tmp_path: Path) -> None:
    """Also with weights that are not safetensors."""
    snapshot = cached(tmp_path, REPO, "pytorch_model.bin")
    code = f"from icf_avs.encoders.weights import model_folder\nprint(model_folder({REPO!r}))"
    assert offline(tmp_path, code).strip() == str(snapshot)


def test_every_hub_model_has_a_revision_entry() -> None:
    read = {model.repo for model in (*BACKBONES.values(), *PUBLISHED.values())} | {CLIP.repo, ast_tagger.REPO}
    assert read == weights.REVISIONS.keys()
    assert all(revision is None or re.fullmatch("[0-9a-f]{40}", revision) for revision in weights.REVISIONS.values())
    assert all(weights.REVISIONS[source.repo] for source in PUBLISHED.values())


@pytest.mark.parametrize("repo", [PINNED, REPO])
def test_the_hub_is_asked_for_the_pinned_commit(repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is not pinned is fetched at the newest commit."""
    with hub_in(tmp_path, monkeypatch) as server:
        filled(server.root / repo, "config.json", "model.safetensors")
        folder = weights.model_folder(repo)
    wanted = weights.REVISIONS[repo] or COMMIT
    assert folder.name == wanted and (folder / "config.json").is_file()
    files = {path for path in server.reads if path.startswith(repo)}
    assert files == {f"{repo}/resolve/{wanted}/{name}" for name in ("config.json", "model.safetensors")}


def test_another_commit_in_the_hub_cache_is_not_used(tmp_path: Path) -> None:
    newest = cached(tmp_path, PINNED, "model.safetensors")
    code = (
        "from icf_avs.encoders.weights import model_folder\nfrom icf_avs.errors import UserError\n"
        f"try: print(model_folder({PINNED!r}))\nexcept UserError as error: print(error)"
    )
    assert f"hf download {PINNED} --revision {weights.REVISIONS[PINNED]} " in offline(tmp_path, code)
    pinned = filled(newest.parent / weights.REVISIONS[PINNED], "config.json", "model.safetensors")
    assert offline(tmp_path, code).strip() == str(pinned)


def test_a_weights_folder_has_priority_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = filled(tmp_path / "all" / "pvt_v2_b5", "config.json", "model.safetensors")
    other = filled(tmp_path / "other", "config.json", "model.safetensors")
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "all"))
    assert weights.model_folder(REPO) == own
    assert weights.model_folder(REPO, str(other)) == other
    (own / "config.json").unlink()
    with pytest.raises(UserError, match=r"pvt_v2_b5: lacks config.json; .* hf download OpenGVLab/pvt_v2_b5"):
        weights.model_folder(REPO)


def test_a_misspelt_folder_is_not_used_as_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    for given in ("weights/pvt", tmp_path / "weights" / "pvt", "weights/pvt/b5"):
        with pytest.raises(UserError, match="no such folder of weights"):
            weights.model_folder(REPO, given)
    with pytest.raises(UserError, match=r"lacks config.json and model.safetensors"):
        weights.model_folder(REPO, "weights")


def test_a_missing_weights_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """By everything that reads weights, instead of using another place."""
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(tmp_path / "wieghts"))
    looks = (
        lambda: weights.model_folder(REPO), vggish.load_vggish, efficientat.load_efficientat,
        voc_segmenter.load_segmenter_or_none,
        lambda: icf_avs.load("natural"),
    )  # fmt: skip
    for look in looks:
        with pytest.raises(UserError, match=r"ICF_WEIGHTS_DIR=.*wieghts: no such folder"):
            look()
    monkeypatch.delenv("ICF_WEIGHTS_DIR")
    (tmp_path / "file").touch()
    for given in (tmp_path / "nope", tmp_path / "file"):
        assert main(["segment", "a.mp4", "--out", str(tmp_path), "--weights-dir", str(given)]) == 2
        assert f"--weights-dir {given}: no such folder" in capsys.readouterr().err
    unused = ["segment", "a.mp4", "--out", str(tmp_path), "--weights-dir", str(tmp_path), "--checkpoint", "stamps"]
    assert main(unused) == 2
    assert "checkpoint stamps needs no weights from there" in capsys.readouterr().err
    assert "ICF_WEIGHTS_DIR" not in os.environ


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="resnet-50 needs the library transformers; install it with: pip install"):
        registry.build_visual("resnet-50", random=True)
    with pytest.raises(UserError, match="CLIP needs the library transformers"):
        registry.embed_names("clip", ("dog",))


def test_the_registry_builds_by_name() -> None:
    frames = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    for name in registry.VISUAL:
        reduced = {} if name.startswith("efficientnet-lite0") else {"depths": (1, 1, 1, 1)}
        encoder = registry.build_visual(name, random=True, **reduced)
        levels = encoder(frames)[:4]  # a fifth may hold class scores
        assert [level.shape[1] for level in levels] == list(encoder.channels), name
        assert [64 // level.shape[2] for level in levels] == list(encoder.strides), name
    token, tokens = registry.build_audio("log-mel", 16)(torch.zeros(2, 15_600))
    assert token.shape == (2, 16) and tokens.shape == (2, 6, 16)


@pytest.mark.parametrize("call", [registry.build_visual, lambda name: registry.build_audio(name, 8)])
def test_an_unknown_name_lists_the_known(call) -> None:
    with pytest.raises(UserError, match=r"no (visual|audio) encoder is called vgg16; there are .*(swin-b|vggish)"):
        call("vgg16")


def test_encoders_that_cannot_train_or_load_raise() -> None:
    with pytest.raises(UserError, match="efficientnet-lite0 does not train"):
        registry.build_visual("efficientnet-lite0", frozen=False)
    with pytest.raises(UserError, match="takes no weights"):
        registry.build_audio("log-mel", 8, weights="x.pth")


def test_weights_from_another_place_than_the_folder_are_reported(tmp_path: Path, monkeypatch, capsys) -> None:
    kept = filled(tmp_path / "torch" / "hub" / "checkpoints", "x.pt")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert weights.released_file("X", "http://127.0.0.1:9/x.pt", "0") == kept / "x.pt"
    assert not capsys.readouterr().err, "no folder is named"
    for level, own in ((console.NORMAL, filled(tmp_path / "usual")), (console.VERBOSE, filled(tmp_path / "verbose"))):
        monkeypatch.setenv(weights.FOLDER_VARIABLE, str(own))
        console.set_verbosity(level)
        for _ in range(2):
            assert weights.released_file("X", "http://127.0.0.1:9/x.pt", "0") == kept / "x.pt"
    console.set_verbosity(console.NORMAL)
    assert capsys.readouterr().err.splitlines() == [f"{own}: has no x.pt; it is read from {kept}"], "once, with -v"
