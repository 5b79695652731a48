"""`icf export`: export a checkpoint to files that run without icf-avs, with a model card (graphs: graphs.py)."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from icf_avs.atomic_io import atomic_file, check_file, write_text
from icf_avs.checkpoint.model_card import HEAD, model_card
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.encoders.registry import NEEDS_VOCABULARY
from icf_avs.errors import UserError
from icf_avs.export.graphs import ExportGraph, WaveformGraph
from icf_avs.export.open_vocabulary_graphs import TaggedMaskGraph, TagGraph
from icf_avs.networks.segmentation_model import SegmentationModel
from icf_avs.provenance import short_digest

NOTES = "icf-avs.json"  # metadata file inside a .pt2 file
_OPSET = 18
_MAX_DIM_SIZE = 1 << 31  # clips, and frames per clip: torch 2.6 needs an upper bound

Runner = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Format:
    """An export format. write(program, graph, path); run(path, graph) -> a function of the graph's inputs, on the CPU;
    needs: required libraries besides torch.
    """

    suffix: str
    write: Callable[[ExportedProgram, ExportGraph, Path], None]
    run: Callable[[Path, ExportGraph], Runner]
    needs: tuple[str, ...] = ()


def graphs_of(model: SegmentationModel) -> tuple[ExportGraph, ...]:
    """Return the graphs to export: one, or two for a model with a tagger."""
    kinds = (TagGraph, TaggedMaskGraph) if model.config.audio in NEEDS_VOCABULARY else (WaveformGraph,)
    return tuple(kind(model) for kind in kinds)


def trace(graph: ExportGraph) -> ExportedProgram:
    """Trace the graph for any number of clips and frames; the sizes of frames and windows are fixed."""
    clips, frames = Dim("clips", min=1, max=_MAX_DIM_SIZE), Dim("frames", min=1, max=_MAX_DIM_SIZE)
    shape = {0: clips, 1: frames}
    with torch.no_grad():  # 2 clips of 3 frames: a size of 1 would become a constant
        return torch.export.export(graph, graph.example(2, 3), dynamic_shapes=dict.fromkeys(graph.inputs, shape))


def _write_onnx(program: ExportedProgram, graph: ExportGraph, path: Path) -> None:
    converted = torch.onnx.export(
        program, dynamo=True, input_names=graph.inputs, output_names=graph.outputs, opset_version=_OPSET, verbose=False
    )
    converted.model.metadata_props.update(graph.metadata())
    converted.save(path, external_data=False)


def _write_torch(program: ExportedProgram, graph: ExportGraph, path: Path) -> None:
    notes = {name: json.loads(value) for name, value in graph.metadata().items()}
    text = json.dumps({**notes, "inputs": graph.inputs, "outputs": graph.outputs})
    torch.export.save(program, path, extra_files={NOTES: text})


def _run_onnx(path: Path, graph: ExportGraph) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        arrays = {name: x.numpy() for name, x in zip(graph.inputs, inputs, strict=True)}
        return tuple(map(torch.from_numpy, session.run(None, arrays)))

    return run


def _run_torch(path: Path, graph: ExportGraph) -> Runner:
    return torch.export.load(path).module()


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _run_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch": Format(".pt2", _write_torch, _run_torch),
}


def write(graph: ExportGraph, program: ExportedProgram, form: Format, path: Path) -> None:
    """Write the program, completely or not at all."""
    with atomic_file(path) as new:
        form.write(program, graph, new)


@torch.no_grad()
def difference(graph: ExportGraph, runner: Runner, clips: int, frames: int) -> float:
    """Return the largest absolute difference between the outputs of a file and of the graph, over one batch."""
    inputs = graph.example(clips, frames)
    pairs = zip(runner(*inputs), graph(*inputs), strict=True)
    return max((found - expected).abs().max().item() for found, expected in pairs)


TOLERANCE = 1e-3  # of logits and probabilities
_USE = {
    "onnx": "`{file}` takes {inputs} and gives {outputs}. Its metadata holds the clip specification (`spec`) and the "
    "names of words and classes.",
    "torch": "`torch.export.load('{file}').module()` takes {inputs} and gives {outputs}. Its extra file `icf-avs.json` "
    "holds the clip specification and the names of words and classes.",
}
_RUNNER = {"onnx": " `examples/onnx_segment.py` of icf-avs runs it on a video with ONNX Runtime alone.", "torch": ""}
_TAGGED = " Frames in which no word is heard are left out of the second: nothing is segmented there."
_TENSORS = {
    "frames": "uint8 [clips, frames, {size}, {size}, 3]",
    "waves": "float32 [clips, frames, {window}] at {rate} Hz",
    "logits": "mask logits [clips, frames, h, w]",
    "heard": "how present each word is in the sound [clips, frames, words]",
    "classes": "class logits [clips, frames, classes, h, w], background first",
}


def export_command(checkpoint: str, out: Path, form: str, results: Path = Path("results")) -> None:
    """Write out/NAME.onnx or out/NAME.pt2 and out/README.md, run the file and print its difference from the model. A
    model with a tagger has a second file, out/NAME-tags.onnx or out/NAME-tags.pt2.

    form  a key of FORMATS; results  folder of the score tables for the card.
    Raises UserError if the checkpoint or a library is missing, or a file differs from the model.
    """
    export_format = FORMATS[form]
    for library in export_format.needs:
        if importlib.util.find_spec(library) is None:
            raise UserError(f"the export needs {library}: pip install 'icf-avs[onnx]'")
    path, name = find_checkpoint(checkpoint)
    card = out / "README.md"
    check_file(card)
    if card.exists() and not card.read_bytes().startswith(HEAD):
        raise UserError(f"{card}: exists and is not a model card; name another folder for --out")
    model = load_checkpoint(path)
    targets = {out / f"{name}{graph.suffix}{export_format.suffix}": graph for graph in graphs_of(model)}
    for target in targets:
        check_file(target)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # suppress warnings about unused packages
    for target, graph in targets.items():
        with warnings.catch_warnings(action="ignore"):  # internal to torch
            write(graph, trace(graph), export_format, target)
        runner, clip_lengths = export_format.run(target, graph), (1, graph.model.spec.frames)
        max_difference = max(difference(graph, runner, 1, frames) for frames in clip_lengths)
        if not max_difference <= TOLERANCE:  # also true for NaN
            raise UserError(f"{target}: differs from the model by {max_difference:.1e}; do not use it, and report this")
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, at most {max_difference:.1e} from the model")
    use = " ".join(_use(form, graph, target.name) for target, graph in targets.items())
    use += (_TAGGED if len(targets) > 1 else "") + _RUNNER[form]
    write_text(card, model_card(name, read_recipe(path), use, results, short_digest(model.digest or "")))
    print(f"{card}: the card")


def _use(form: str, graph: ExportGraph, file: str) -> str:
    spec = graph.model.spec
    sizes = {"size": spec.image_size, "window": spec.window, "rate": spec.sample_rate}
    inputs, outputs = (
        ", ".join(f"`{name}`: {_TENSORS[name].format(**sizes)}" for name in names)
        for names in (graph.inputs, graph.outputs)
    )
    return _USE[form].format(file=file, inputs=inputs, outputs=outputs)
