"""`icf export`: a checkpoint as a file that needs no icf-avs, with its card.

The model becomes a graph of plain tensor operations: what `Predictor` does, for any number of clips and of frames.
Two parts are computed in another way than in the model, to the same result. The log-mel front end is a strided
convolution: a windowed DFT is nothing else, and every runtime has one. Segments are gathered for each frame in place of
padded and split, since a graph cannot branch on the number of frames.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from icf_avs.atomic_io import check_file, write_text, written_file
from icf_avs.checkpoint.model_card import HEAD, model_card
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.encoders.registry import NEEDS_VOCABULARY
from icf_avs.errors import UserError
from icf_avs.inference.postprocess import ScaleMasks, postprocess
from icf_avs.media import vggish_frontend
from icf_avs.media.vggish_frontend import FFT, FRAME, HOP, LOG_OFFSET
from icf_avs.networks.guided import GuidedNetwork
from icf_avs.networks.guided_parts.implicit_text import ImplicitText
from icf_avs.networks.guided_parts.vocabulary import Vocabulary
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.provenance import short_digest
from icf_avs.types import VisualFeatures


class LogMel(nn.Module):
    """waveforms [N, n] at 16 kHz -> log-mel [N, 1 + (n - 400) // 160, 64], as `spectrogram.log_mel` up to rounding."""

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(FRAME, dtype=torch.float64)
        angle = 2 * math.pi / FFT * torch.arange(FFT // 2 + 1, dtype=torch.float64)[:, None] * time
        hann = torch.hann_window(FRAME, periodic=True, dtype=torch.float64)
        basis = torch.cat([angle.cos(), angle.sin()]) * hann
        self.register_buffer("basis", basis.float()[:, None])  # [514, 1, 400], real parts first
        self.register_buffer("filters", vggish_frontend.mel_filters().T.contiguous()[..., None])  # [64, 257, 1]

    def forward(self, waves: Tensor) -> Tensor:
        real, imaginary = F.conv1d(waves[:, None], self.basis, stride=HOP).chunk(2, dim=1)
        magnitude = (real.square() + imaginary.square()).sqrt()
        return (F.conv1d(magnitude, self.filters) + LOG_OFFSET).log().transpose(1, 2)


class UnpaddedImplicitText(nn.Module):
    """`ImplicitText` without padding: every frame gathers the frames of its segment."""

    def __init__(self, text: ImplicitText) -> None:
        super().__init__()
        self.text = text

    @property
    def vocabulary(self) -> Vocabulary:
        return self.text.vocabulary

    def forward(self, sound: Tensor, visual: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """The frame level alone, [B,T,n,D]: it is all that a mask needs. All frames are taken as valid."""
        clips, frames = valid.shape
        size = self.text.segment
        number = torch.arange(frames, device=sound.device)
        member = (number // size * size)[:, None] + torch.arange(size, device=sound.device)  # T size
        inside = (member < frames).expand(clips, -1, -1).flatten(0, 1)
        member = member.clamp(max=frames - 1).flatten()

        words = self.vocabulary.words()
        video = self.text.of_video(sound, visual, valid, words)  # B n D
        video = video[:, None].expand(-1, frames, -1, -1).flatten(0, 1)  # (B T) n D
        parts = sound[:, member].unflatten(1, (frames, size)).flatten(0, 1)  # (B T) size D
        looks = visual.mean(2)[:, member].unflatten(1, (frames, size)).flatten(0, 1)[:, :, None]
        segment = self.text.of_segments(parts, looks, inside, words, [video])[:, 0]  # of each frame's own segment
        return {"frame": self.text.of_frames(sound, visual, valid, words, [segment])}


class ExportGraph(nn.Module):
    """(frames uint8 [B,T,S,S,3], waveforms float32 [B,T,N]) -> the outputs of `outputs`, in that order.

    logits [B,T,h,w] mask logits | heard [B,T,C] how present each class is in the sound, in [0, 1] (with MIT)
    classes [B,T,C+1,h,w] class logits, background first (with a class head)
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        self.log_mel = LogMel()
        network, reads = self.model.network, False
        if isinstance(network, GuidedNetwork) and network.implicit_text is not None:
            network.implicit_text, reads = UnpaddedImplicitText(network.implicit_text), len(model.classes) > 0
        present = {"heard": reads, "classes": model.config.semantic}
        self.outputs = ("logits", *(name for name, there in present.items() if there))

    def example(self, clips: int, frames: int) -> tuple[Tensor, Tensor]:
        """Random inputs of that many clips and frames, the same every time."""
        spec, generator = self.model.spec, torch.Generator().manual_seed(0)
        shape = clips, frames, spec.image_size, spec.image_size, 3
        pictures = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return pictures, 0.1 * torch.randn(clips, frames, spec.window, generator=generator)

    def forward(self, frames: Tensor, waves: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        clips, count = frames.shape[:2]
        torch._check(waves.shape[0] == clips)  # the tracer would keep four sizes apart where there are two
        torch._check(waves.shape[1] == count)
        visual = VisualFeatures([level.unflatten(0, (clips, count)) for level in model.visual(frames.flatten(0, 1))])
        mel = self.log_mel(waves.flatten(0, 1)).unflatten(0, (clips, count))
        output = model.network(visual, mel, torch.ones(clips, count, dtype=torch.bool))
        results = [postprocess([ScaleMasks(output.logits)], model)]
        if "heard" in self.outputs:
            results.append(output.word_probs[..., : len(model.classes)])
        if "classes" in self.outputs:
            results.append(output.classes)
        return tuple(results)


INPUTS = ("frames", "waves")
NOTES = "icf-avs.json"  # of a .pt2 file: the member that holds the metadata
_OPSET = 18
_MOST = 1 << 31  # clips, and frames of each: torch 2.6 needs an upper bound

Runner = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Format:
    """write(program, outputs, metadata, path); run(path) -> a function of (frames, waveforms), on the CPU; needs:
    libraries beside torch.
    """

    suffix: str
    write: Callable[[ExportedProgram, tuple[str, ...], dict[str, str], Path], None]
    run: Callable[[Path], Runner]
    needs: tuple[str, ...] = ()


def trace(graph: ExportGraph) -> ExportedProgram:
    """The graph as a program for any number of clips and of frames; the size of frames and windows is fixed."""
    clips, frames = Dim("clips", min=1, max=_MOST), Dim("frames", min=1, max=_MOST)
    shape = {0: clips, 1: frames}
    with torch.no_grad():  # two clips of three frames: a size of 1 would be taken for a constant
        return torch.export.export(graph, graph.example(2, 3), dynamic_shapes=dict.fromkeys(INPUTS, shape))


def metadata(graph: ExportGraph) -> dict[str, str]:
    """What a user of the file must know, as JSON texts: the clip specification and the names of outputs."""
    model = graph.model
    classes = ["background", *model.classes] if "classes" in graph.outputs else []
    return {
        "spec": json.dumps(vars(model.spec)),
        "words": json.dumps(list(model.classes) if "heard" in graph.outputs else []),
        "classes": json.dumps(classes),
    }


def _write_onnx(program: ExportedProgram, outputs: tuple[str, ...], notes: dict[str, str], path: Path) -> None:
    converted = torch.onnx.export(
        program, dynamo=True, input_names=INPUTS, output_names=outputs, opset_version=_OPSET, verbose=False
    )
    converted.model.metadata_props.update(notes)
    converted.save(path, external_data=False)


def _write_torch(program: ExportedProgram, outputs: tuple[str, ...], notes: dict[str, str], path: Path) -> None:
    text = json.dumps({**{name: json.loads(value) for name, value in notes.items()}, "outputs": outputs})
    torch.export.save(program, path, extra_files={NOTES: text})


def _run_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda *inputs: tuple(
        torch.from_numpy(output)
        for output in session.run(None, {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)})
    )


def _run_torch(path: Path) -> Runner:
    return torch.export.load(path).module()


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _run_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch": Format(".pt2", _write_torch, _run_torch),
}


def write(graph: ExportGraph, program: ExportedProgram, form: Format, path: Path) -> None:
    """Write the program so that the file is there whole or not at all."""
    with written_file(path) as new:
        form.write(program, graph.outputs, metadata(graph), new)


@torch.no_grad()
def difference(graph: ExportGraph, runner: Runner, clips: int, frames: int) -> float:
    """Largest absolute difference between the outputs of a file and of the graph, over one batch."""
    inputs = graph.example(clips, frames)
    pairs = zip(runner(*inputs), graph(*inputs), strict=True)
    return max((found - expected).abs().max().item() for found, expected in pairs)


TOLERANCE = 1e-3  # of logits and probabilities
_USE = {
    "onnx": "`{file}` takes `frames` uint8 [clips, frames, {size}, {size}, 3] and `waves` float32 [clips, frames, "
    "{window}] at {rate} Hz and gives {outputs}. Its metadata holds the clip specification (`spec`) and the names of "
    "words and classes. `examples/onnx_segment.py` of icf-avs runs it on a video with ONNX Runtime alone.",
    "torch": "`torch.export.load('{file}').module()` takes frames uint8 [clips, frames, {size}, {size}, 3] and waves "
    "float32 [clips, frames, {window}] at {rate} Hz and gives {outputs}. Its extra file `icf-avs.json` holds the clip "
    "specification and the names of words and classes.",
}
_OUTPUTS = {
    "logits": "mask logits [clips, frames, h, w]",
    "heard": "how present each word is in the sound [clips, frames, words]",
    "classes": "class logits [clips, frames, classes, h, w], background first",
}


def export_command(checkpoint: str, out: Path, form: str, results: Path = Path("results")) -> None:
    """Write out/NAME.onnx or out/NAME.pt2 and out/README.md, run the file and say how near it comes to the model.

    form  a key of FORMATS; results  folder of the tables of scores that the card shows.
    Raises UserError without the checkpoint or a library, and when the file differs from the model.
    """
    made = FORMATS[form]
    for library in made.needs:
        if importlib.util.find_spec(library) is None:
            raise UserError(f"the export needs {library}: pip install 'icf-avs[onnx]'")
    path, name = find_checkpoint(checkpoint)
    target, card = out / f"{name}{made.suffix}", out / "README.md"
    check_file(target)
    check_file(card)
    if card.exists() and not card.read_bytes().startswith(HEAD):
        raise UserError(f"{card}: exists and is not a model card; name another folder for --out")
    model = load_checkpoint(path)
    if model.config.audio in NEEDS_VOCABULARY:
        raise UserError(f"{path}: has a sound tagger, which cannot be exported yet; export stamps, or one of its kind")
    graph = ExportGraph(model)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that the model does not use
    write(graph, trace(graph), made, target)
    gap = max(difference(graph, made.run(target), 1, frames) for frames in (1, graph.model.spec.frames))
    if not gap <= TOLERANCE:  # true for NaN as well
        raise UserError(f"{target}: differs from the model by {gap:.1e}; do not use it, and report this")
    use = _use(form, graph, target.name)
    write_text(card, model_card(name, read_recipe(path), use, results, short_digest(graph.model.digest or "")))
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, at most {gap:.1e} from the model; the card is README.md")


def _use(form: str, graph: ExportGraph, file: str) -> str:
    spec = graph.model.spec
    outputs = ", ".join(f"`{name}`: {_OUTPUTS[name]}" for name in graph.outputs)
    return _USE[form].format(
        file=file, size=spec.image_size, window=spec.window, rate=spec.sample_rate, outputs=outputs
    )
