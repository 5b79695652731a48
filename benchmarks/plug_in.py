"""(h) A training step with the whole of ICF beside the network's own: its seconds, and the peak memory of its process.

The runs are the recipes s4-r50 and s4-pvt: query network, trained encoder, clips of five frames at 224x224; MIT, SC and
CDCL with the published text encoders. All weights are random. Each network is in a process of its own: one step that
does not count (it allocates the optimizer's state and encodes the texts), then a whole period of n steps, in which
pseudo-words go once through the text encoders. A batch has the recipe's eight clips. PVTv2-B5 runs in bfloat16, as the
recipes do on a GPU, because eight clips of it in float32 take more than 24 GB.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import transformers
from transformers import BatchEncoding

from benchmarks.models import PVT, RESNET, Encoder, batch
from benchmarks.processes import finished
from benchmarks.table import Row
from benchmarks.training_step import stepping
from benchmarks.turns import Machine, row
from icf_avs.config import TrainConfig
from icf_avs.encoders.registry import build_audio
from icf_avs.glibc_malloc import keep_freed_memory
from icf_avs.icf.icf import ICF
from icf_avs.icf.text_encoders import CLAP, PLACEHOLDER, PUBLISHED, Source, TextEncoder
from icf_avs.networks.build import build_model
from icf_avs.training.recipes import RECIPES
from icf_avs.training.train_module import PlugInTrainModule
from icf_avs.types import Batch

RUNS = {RESNET: "s4-r50", PVT: "s4-pvt"}
CLIPS = 8  # of a batch
BFLOAT16 = (PVT.name,)
TURNS = 2  # at most
ALONE = "the network alone"


class Words:
    """A tokenizer with a token a word: which they are takes no time. ends: the first and last token of a sentence."""

    def __init__(self, ends: tuple[int, int]) -> None:
        self.ends = ends

    def __call__(
        self, text: str | list[str], add_special_tokens: bool = True, return_tensors: str | None = None
    ) -> BatchEncoding:
        texts = [text] if isinstance(text, str) else text
        found = [[265 if word == PLACEHOLDER else 500 for word in each.split()] for each in texts]
        found = [[self.ends[0], *words, self.ends[1]] if add_special_tokens else words for words in found]
        if return_tensors is None:
            return BatchEncoding({"input_ids": found[0]})
        ids = torch.tensor(found)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def text_encoder(source: Source, layers: int | None = None) -> TextEncoder:
    """A published text encoder of random weights, whose sizes are transformers' defaults. layers: for tests."""
    architecture = getattr(transformers, source.model)
    config = architecture.config_class(**({} if layers is None else {"num_hidden_layers": layers}))
    words = Words((0, 2) if source is CLAP else (49_406, 49_407))
    return TextEncoder(architecture(config), words, source.pooled, source.widths[1])


def one_step(encoder: Encoder, given: Batch, plug_in: bool) -> Callable[[], None]:
    """A step of the encoder's recipe as a program, with the whole of ICF or without any."""
    torch.manual_seed(0)
    config = recipe(encoder)
    settings, icf = config.model_config(()), config.icf
    audio = build_audio(settings.audio, settings.dim, random=True)
    model = build_model(settings, config.spec, encoder.build(train=True), audio=audio)
    train_module = PlugInTrainModule(model, None)
    if plug_in:
        loaded = {source: text_encoder(source, encoder.depths and 1) for source in set(PUBLISHED.values())}
        texts = {level: loaded[source] for level, source in PUBLISHED.items()}
        train_module.icf = ICF(model.network.feature_spec, icf.mit, icf.sc, icf.cdcl, encoder_of=texts.__getitem__)
    train_module.train()

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=encoder.name in BFLOAT16):
            return train_module(given, "train")["loss"]

    return stepping(train_module, loss)


def recipe(encoder: Encoder) -> TrainConfig:
    """The published recipe of an encoder."""
    return RECIPES[next(name for of, name in RUNS.items() if of.name == encoder.name)]()


def seconds_a_step(encoder: Encoder, plug_in: bool, clips: int, size: int = 224) -> float:
    """Mean over a period of encode_every steps; one step before it does not count."""
    keep_freed_memory()
    step, period = one_step(encoder, batch(clips, size=size), plug_in), recipe(encoder).icf.mit.encode_every
    step()
    began = time.perf_counter()
    for _ in range(period):
        step()
    return (time.perf_counter() - began) / period


def plug_in(machine: Machine, encoders: Sequence[Encoder] = tuple(RUNS)) -> Iterator[Row]:
    """Rows plug-in-step-NAME, in seconds a step, and plug-in-memory-NAME, in megabytes."""
    for encoder in encoders:
        turns = [
            [finished(machine, "-m", "benchmarks.plug_in", encoder.name, who, str(CLIPS)) for who in ("icf", "alone")]
            for _ in range(min(machine.turns, TURNS))
        ]
        steps = ([float(each.printed) for each in of] for of in zip(*turns, strict=True))
        kind = ", bfloat16" if encoder.name in BFLOAT16 else ""
        yield row(f"plug-in-step-{encoder.name}", *steps, ALONE, machine, f"s/step of {CLIPS} clips{kind}")
        peaks = ([each.peak for each in of] for of in zip(*turns, strict=True))
        yield row(f"plug-in-memory-{encoder.name}", *peaks, ALONE, machine, f"MB, {CLIPS} clips{kind}")


if __name__ == "__main__":
    name, who, clips = sys.argv[1:]
    print(seconds_a_step(next(of for of in RUNS if of.name == name), who == "icf", int(clips)))
