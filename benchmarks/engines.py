"""Other runtimes of the shipped model on a clip, against PyTorch: its ONNX file in ONNX Runtime, and torch.compile."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds
from icf_avs.checkpoint.serialization import load_checkpoint
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.export.export_model import FORMATS, trace, write
from icf_avs.export.graphs import WaveformGraph
from icf_avs.networks.segmentation_model import SegmentationModel


def engines(machine: Machine, model: SegmentationModel | None = None) -> Iterator[Row]:
    """Yield rows engine-onnxruntime and engine-compiled, for a clip with the number of frames of the model."""
    model = load_checkpoint(find_checkpoint("stamps")[0]) if model is None else model
    graph = WaveformGraph(model)
    clip = graph.example(1, model.spec.frames)
    valid = torch.ones(1, model.spec.frames, dtype=torch.bool)

    def plain(frames: Tensor, waves: Tensor) -> Tensor:
        return model(frames, waves, valid).logits

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = machine.threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write(graph, trace(graph), FORMATS["onnx"], path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {name: x.numpy() for name, x in zip(graph.inputs, clip, strict=True)}
    compiled = torch.compile(plain)
    with torch.inference_mode():
        ours, other, fast = seconds(
            machine, lambda: plain(*clip), lambda: session.run(None, given), lambda: compiled(*clip)
        )
    yield row("engine-onnxruntime", other, ours, "PyTorch", machine, "s/clip")
    yield row("engine-compiled", fast, ours, "PyTorch", machine, "s/clip")
