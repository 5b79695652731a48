"""(b), (g) A training step (forward, backward, AdamW) and the peak memory of its process: each network against TPAVI as
published, and query networks with all of ICF against the same networks without it.

The runs are the recipes of S4: trained encoder, clips of five frames at 224x224, MIT, SC and CDCL with the published
text encoders; the guided network has other losses. All weights are random. Each network runs in a separate process: one
uncounted step (it allocates the optimizer state and encodes the texts), then a whole period of steps, in which the
pseudo-words pass once through the text encoders, or one step for other networks. Processes take turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import transformers
from torch import nn
from transformers import BatchEncoding

from benchmarks.models import ENCODERS, NETWORKS, PUBLISHED, Encoder, batch, build, recipe
from benchmarks.processes import finished
from benchmarks.table import Row
from benchmarks.turns import Machine, row
from icf_avs.encoders.text_encoders import CLAP, PLACEHOLDER, TextEncoder, TextEncoderSpec
from icf_avs.encoders.text_encoders import PUBLISHED as PUBLISHED_TEXTS
from icf_avs.glibc_malloc import keep_freed_memory
from icf_avs.icf.icf import ICF
from icf_avs.training.train_module import PlugInTrainModule, TrainModule
from icf_avs.types import Batch

CLIPS = 2  # per batch: TPAVI as published takes gigabytes per clip
TURNS = 2  # at most
SINGLE_TURN = ("tpavi", "avsegformer")  # slow networks that are rarely compared: one turn is enough
WITH_ICF = ("query-light+icf", "query-deformable+icf")
ALONE = "the network alone"


class FakeTokenizer:
    """A tokenizer with one token per word; token ids do not affect time. ends: first and last token of a text."""

    def __init__(self, ends: tuple[int, int]) -> None:
        self.ends = ends

    def __call__(
        self, text: str | list[str], add_special_tokens: bool = True, return_tensors: str | None = None
    ) -> BatchEncoding:
        texts = [text] if isinstance(text, str) else text
        token_ids = [[265 if word == PLACEHOLDER else 500 for word in each.split()] for each in texts]
        token_ids = [[self.ends[0], *words, self.ends[1]] if add_special_tokens else words for words in token_ids]
        if return_tensors is None:
            return BatchEncoding({"input_ids": token_ids[0]})
        ids = torch.tensor(token_ids)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def text_encoder(source: TextEncoderSpec, layers: int | None = None) -> TextEncoder:
    """Build a published text encoder with random weights and the default sizes of transformers. layers: for tests."""
    architecture = getattr(transformers, source.model)
    config = architecture.config_class(**({} if layers is None else {"num_hidden_layers": layers}))
    tokenizer = FakeTokenizer((0, 2) if source is CLAP else (49_406, 49_407))
    return TextEncoder(architecture(config), tokenizer, source.pooled, source.widths[1])


def train_module(network: str, encoder: Encoder) -> TrainModule:
    """Return the training module of a network; NETWORK+icf includes all of ICF."""
    name, _, icf = network.partition("+")
    model = build(name, encoder, train=True)
    if name == "guided":
        return TrainModule(model).train()
    module = PlugInTrainModule(model, None)
    if icf:
        settings = recipe(name, encoder).icf
        loaded = {source: text_encoder(source, encoder.depths and 1) for source in set(PUBLISHED_TEXTS.values())}
        texts = {level: loaded[source] for level, source in PUBLISHED_TEXTS.items()}
        parts = settings.mit, settings.sc, settings.cdcl
        module.icf = ICF(model.network.feature_spec, *parts, encoder_of=texts.__getitem__)
    return module.train()


def one_step(module: TrainModule, training_batch: Batch) -> Callable[[], None]:
    """Return a function that runs a whole training step."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        module(training_batch, "train")["loss"].backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def seconds_a_step(network: str, encoder: Encoder, clips: int = CLIPS, size: int = 224, device: str = "cpu") -> float:
    """Mean over a period of encode_every steps for a query network, else one step; a first step does not count."""
    place = torch.device(device)
    step = one_step(train_module(network, encoder).to(place), batch(clips, size=size).to(place))
    settings = recipe("query-light", encoder).icf.mit
    count = settings.encode_every if network.startswith("query") else 1
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def training(machine: Machine, encoders: Sequence[Encoder] = tuple(ENCODERS.values())) -> Iterator[Row]:
    """Yield rows training-step-ENCODER-NETWORK (seconds per step) and training-memory-ENCODER-NETWORK (megabytes)."""
    for encoder in encoders:
        runs: dict[str, list] = {name: [] for name in (*NETWORKS, *WITH_ICF)}
        for turn in range(min(machine.turns, TURNS)):
            for name, network_runs in runs.items():
                if not turn or name not in SINGLE_TURN:
                    arguments = "-m", "benchmarks.training", encoder.name, name, machine.device
                    network_runs.append(finished(machine, *arguments))
        for name in (*NETWORKS[1:], *WITH_ICF):
            for reference in (PUBLISHED, *([name.partition("+")[0]] if name in WITH_ICF else [])):
                pairs = list(zip(runs[name], runs[reference], strict=False))
                label = f"{encoder.name}-{name}", reference if reference == PUBLISHED else ALONE, machine
                steps = ([float(run.printed) for run in each] for each in zip(*pairs, strict=True))
                yield row(f"training-step-{label[0]}", *steps, *label[1:], f"s/step of {CLIPS} clips")
                if machine.device == "cpu":
                    peaks = ([run.peak for run in each] for each in zip(*pairs, strict=True))
                    yield row(f"training-memory-{label[0]}", *peaks, *label[1:], f"MB, {CLIPS} clips")


if __name__ == "__main__":
    name, network, device, *memory = sys.argv[1:]
    if memory != ["given-back"]:
        keep_freed_memory()  # as `icf train` does
    print(seconds_a_step(network, ENCODERS[name], device=device))
