"""`icf export`: a checkpoint as a file that needs no icf-avs, with its card."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from icf_avs.atomic_io import check_file, write_text
from icf_avs.checkpoint.export_formats import FORMATS, difference, trace, write
from icf_avs.checkpoint.export_graph import ExportGraph
from icf_avs.checkpoint.model_card import HEAD, model_card
from icf_avs.checkpoint.serialization import load_checkpoint, read_recipe
from icf_avs.checkpoint.source import find_checkpoint
from icf_avs.encoders.registry import NEEDS_VOCABULARY
from icf_avs.errors import UserError
from icf_avs.provenance import short_digest

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
