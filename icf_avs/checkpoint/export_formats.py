"""The file formats of an exported model, how each is written, and how it is run to compare it with the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from icf_avs.atomic_io import written_file
from icf_avs.checkpoint.export_graph import ExportGraph

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
