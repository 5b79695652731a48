"""Where weights are searched and downloaded, messages without a network, and the registry of encoders."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from functools import partial
from pathlib import Path

import pytest
from hub_server import COMMIT, hub_in
from huggingface_hub import constants, snapshot_download

import icf_avs
from icf_avs.__main__ import main
from icf_avs.encoders import registry, taggers, vggish, weights
from icf_avs.encoders.hf_backbones import BACKBONES
from icf_avs.encoders.text_encoders import CLIP, PUBLISHED
from icf_avs.encoders.voc_segmenter import load_segmenter_or_none
from icf_avs.errors import UserError

REPO, PINNED = "OpenGVLab/pvt_v2_b5", "laion/clap-htsat-unfused"
MODEL = ("config.json", "model.safetensors")
NOWHERE = "http://127.0.0.1:9/x.pt"


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (weights.FOLDER_VARIABLE, "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def filled(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def test_the_hub_is_asked_for_the_pinned_commit_and_offline_its_cache(tmp_path: Path, monkeypatch) -> None:
    """A model that is not pinned is fetched at the newest commit. Every model has an entry."""
    with hub_in(tmp_path, monkeypatch) as server:
        filled(server.root / REPO, "config.json", "pytorch_model.bin")  # also weights that are not safetensors
        filled(server.root / PINNED, *MODEL)
        found = weights.model_folder(REPO)
        assert found.name == COMMIT and weights.model_folder(PINNED).name == weights.REVISIONS[PINNED]
        filled(server.root / CLIP.repo, *MODEL)
        snapshot_download(CLIP.repo)  # not at the pinned commit
    files = {path for path in server.reads if path.startswith(PINNED)}
    assert files == {f"{PINNED}/resolve/{weights.REVISIONS[PINNED]}/{name}" for name in MODEL}
    read = {model.repo for model in (*BACKBONES.values(), *PUBLISHED.values())} | {CLIP.repo, taggers.AST_REPO}
    assert read == weights.REVISIONS.keys() and all(weights.REVISIONS[source.repo] for source in PUBLISHED.values())

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.model_folder(REPO) == found
    calls = {BACKBONES[name].repo: partial(registry.build_visual, name) for name in ("resnet-50", "swin-b")}
    calls[CLIP.repo] = partial(registry.embed_names, "clip", ("dog",))
    for repo, call in calls.items():
        pinned = f" --revision {weights.REVISIONS[repo]}" if weights.REVISIONS[repo] else ""
        folder = f"weights/{repo.partition('/')[2]}"
        told = f"hf download {repo}{pinned} --local-dir {folder} && export ICF_WEIGHTS_DIR=weights"
        with pytest.raises(UserError, match=re.escape(told)):
            call()
    with pytest.raises(UserError, match=r"curl -L --create-dirs -o weights/vggish-10086976.pth https://"):
        vggish.load_vggish()


def test_named_folders_have_priority_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = filled(tmp_path / "all" / "pvt_v2_b5", *MODEL), filled(tmp_path / "other", *MODEL, "x.pt")
    (own.parent / "x.pt").touch()
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(own.parent))
    assert weights.model_folder(REPO) == own and weights.model_folder(REPO, str(other)) == other
    for given, found in ((None, own.parent), (other, other), (other / "x.pt", other)):
        assert weights.released_file("X", NOWHERE, "0", given) == found / "x.pt"
    with pytest.raises(UserError, match=r"other/y.pt: no such file of weights of X; get it with: curl"):
        weights.released_file("X", NOWHERE, "0", other / "y.pt")
    (own / "config.json").unlink()
    with pytest.raises(UserError, match=r"pvt_v2_b5: lacks config.json; .* hf download OpenGVLab/pvt_v2_b5"):
        weights.model_folder(REPO)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such folder of weights"):
        weights.model_folder(REPO, "all/pvt")  # a misspelt folder is not the name of a hub model


def test_a_missing_weights_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """By everything that reads weights, instead of using another place."""
    monkeypatch.setenv("ICF_WEIGHTS_DIR", str(tmp_path / "wieghts"))
    looks = (lambda: weights.model_folder(REPO), vggish.load_vggish, load_segmenter_or_none, icf_avs.load)
    for look in looks:
        with pytest.raises(UserError, match=r"ICF_WEIGHTS_DIR=.*wieghts: no such folder"):
            look()
    monkeypatch.delenv("ICF_WEIGHTS_DIR")
    assert main(["segment", "a.mp4", "--out", str(tmp_path), "--weights-dir", str(tmp_path / "nope")]) == 2
    assert f"--weights-dir {tmp_path}/nope: no such folder" in capsys.readouterr().err
    assert "ICF_WEIGHTS_DIR" not in os.environ


def test_released_files_are_downloaded_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(300_000)
    digest = hashlib.sha256(content).hexdigest()
    with hub_in(tmp_path, monkeypatch) as server:
        served, url = filled(server.root / "user" / "name") / "x.pt", f"{server.url}/user/name/resolve/main/x.pt"
        told = r"X are not here .*\(Not Found\); get them with: curl .* ICF_WEIGHTS_DIR=w"
        with pytest.raises(UserError, match=told):
            weights.released_file("X", url, digest)
        served.write_bytes(content)
        path = weights.released_file("X", url, digest)
        assert path == tmp_path / "torch" / "hub" / "checkpoints" / "x.pt" and path.read_bytes() == content
        served.write_bytes(content[:-1])
        assert weights.released_file("X", url, digest) == path
        path.unlink()
        with pytest.raises(UserError, match=r"weights of X .*SHA-256 differs.*curl -L --create-dirs -o weights/x.pt"):
            weights.released_file("X", url, digest)
        assert not list(path.parent.iterdir())
    with pytest.raises(UserError, match="cannot be downloaded"):
        weights.released_file("X", NOWHERE, "0")


def test_impossible_encoders_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no visual encoder is called vgg16; there are .*swin-b"):
        registry.build_visual("vgg16")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="resnet-50 needs the library transformers; install it with: pip install"):
        registry.build_visual("resnet-50", random=True)
