"""(h) A training step with the whole of ICF beside the network's own: its seconds, and the peak memory of a process.

The runs are the recipes s4-r50 and s4-pvt: query network, trained encoder, clips of five frames at 224x224; MIT, SC and
CDCL with the published text encoders. All weights are random. Pseudo-words go through the text encoders every n-th
step, so a turn is a whole period of n steps. Memory is the largest resident set of a process of its own, in which they
go through them in both of two steps; the second finds the optimizer's state. A batch has as many
of the recipe's eight clips as 24 GB hold; for the step both networks are in one process. The text encoders' work does
not grow with the batch, so fewer clips make the plug-in look dearer than eight do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
import transformers
from transformers import BatchEncoding

from benchmarks.models import PVT, RESNET, Encoder, batch
from benchmarks.processes import finished
from benchmarks.table import Row
from benchmarks.training_step import stepping
from benchmarks.turns import Machine, row, seconds
from icf_avs.encoders.registry import build_audio
from icf_avs.glibc_malloc import keep_freed_memory
from icf_avs.icf.icf import ICF
from icf_avs.icf.text_encoders import CLAP, PLACEHOLDER, PUBLISHED, Source, TextEncoder
from icf_avs.networks.build import build_model
from icf_avs.training.recipes import RECIPES
from icf_avs.training.train_module import PlugInTrainModule
from icf_avs.types import Batch

RUNS = {RESNET: "s4-r50", PVT: "s4-pvt"}
STEP_CLIPS = {RESNET: 4, PVT: 2}  # of a batch
MEMORY_CLIPS = {RESNET: 8, PVT: 2}
TURNS = 2  # at most, of encode_every steps each
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


def one_step(encoder: Encoder, given: Batch, plug_in: bool, encode_every: int | None = None) -> Callable[[], None]:
    """A step of the encoder's recipe as a program, with the whole of ICF or without any. encode_every: not the
    recipe's.
    """
    torch.manual_seed(0)
    config = RECIPES[next(name for of, name in RUNS.items() if of.name == encoder.name)]()
    settings, icf = config.model_config(()), config.icf
    audio = build_audio(settings.audio, settings.dim, random=True)
    model = build_model(settings, config.spec, encoder.build(train=True), audio=audio)
    train_module = PlugInTrainModule(model, None)
    if plug_in:
        loaded = {source: text_encoder(source, encoder.depths and 1) for source in set(PUBLISHED.values())}
        texts = {level: loaded[source] for level, source in PUBLISHED.items()}
        mit = replace(icf.mit, encode_every=encode_every or icf.mit.encode_every)
        train_module.icf = ICF(model.network.feature_spec, mit, icf.sc, icf.cdcl, encoder_of=texts.__getitem__)
    train_module.train()
    return stepping(train_module, lambda: train_module(given, "train")["loss"])


def plug_in_step(
    machine: Machine, encoders: Sequence[Encoder] = tuple(RUNS), clips: int | None = None, size: int = 224
) -> Iterator[Row]:
    """Rows plug-in-step-NAME, in seconds a step."""
    keep_freed_memory()
    for encoder in encoders:
        count = clips or STEP_CLIPS[encoder]
        given, period = batch(count, size=size), RECIPES[RUNS[RESNET]]().icf.mit.encode_every
        steps = [one_step(encoder, given, plug_in) for plug_in in (True, False)]
        for step in steps:  # each as a whole takes far longer than what it leaves in the processor's caches
            step()
        taken = seconds(
            replace(machine, turns=min(machine.turns, TURNS)),
            *(partial(times, period, step) for step in steps),
            warm=False,
        )
        each = [[spent / period for spent in turns] for turns in taken]
        yield row(f"plug-in-step-{encoder.name}", *each, ALONE, machine, f"s/step of {count} clips")


def plug_in_memory(
    machine: Machine, encoders: Sequence[Encoder] = tuple(RUNS), clips: int | None = None
) -> Iterator[Row]:
    """Rows plug-in-memory-NAME."""
    for encoder in encoders:
        count = clips or MEMORY_CLIPS[encoder]
        peaks = [[peak(machine, encoder, who, count)] for who in ("icf", "alone")]
        yield row(f"plug-in-memory-{encoder.name}", *peaks, ALONE, machine, f"MB, {count} clips")


def times(count: int, step: Callable[[], None]) -> None:
    """So many steps."""
    for _ in range(count):
        step()


def peak(machine: Machine, encoder: Encoder, who: str, clips: int) -> float:
    """Megabytes of a process that takes two steps."""
    return finished(machine, "-m", "benchmarks.plug_in", encoder.name, who, str(clips)).peak


if __name__ == "__main__":
    name, who, clips = sys.argv[1:]
    times(2, one_step(next(of for of in RUNS if of.name == name), batch(int(clips)), who == "icf", 1))
