"""(a) Seconds per clip of five frames at 224x224, from frames and waveforms to masks: each network against TPAVI as
published with the same encoder, and against the visual encoder alone.

"overhead" is the time of a network minus its encoder, against the encoder: a ratio of 2.5 is an overhead of 40 %. It
includes VGGish and its spectrogram; "overhead-given-embedding" does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from benchmarks.models import ENCODERS, NETWORKS, PUBLISHED, Encoder, batch, build, build_small
from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds

OWN = {"guided-lite0": "stamps", "open-vocabulary": "natural"}  # networks with small encoders -> their recipes


def inference(
    machine: Machine,
    encoders: Sequence[Encoder] = tuple(ENCODERS.values()),
    size: int = 224,
    own_size: int | None = None,
) -> Iterator[Row]:
    """Yield rows inference-ENCODER-NETWORK, ...-overhead and ...-overhead-given-embedding, then inference-OWN.
    own_size: frame size of the latter (default: the recipe's).
    """
    device = torch.device(machine.device)
    given = batch(size=size).to(device)
    for encoder in encoders:
        models = {name: build(name, encoder).to(device) for name in NETWORKS}
        parts = models["query-light"].network
        with torch.inference_mode():
            alone, heard, *found = seconds(
                machine,
                lambda parts=parts: parts.encode_frames(given.frames),
                lambda parts=parts: parts.encode_audio(given.waveforms),
                *(lambda model=model: model(given.frames, given.waveforms, given.valid) for model in models.values()),
            )
        spent = dict(zip(models, found, strict=True))
        for name in NETWORKS[1:]:
            label = f"inference-{encoder.name}-{name}"
            yield row(label, spent[name], spent[PUBLISHED], PUBLISHED, machine, "s/clip")
            rest = [whole - part for whole, part in zip(spent[name], alone, strict=True)]
            yield row(f"{label}-overhead", rest, alone, "encoder alone", machine, "s/clip")
            rest = [whole - part for whole, part in zip(rest, heard, strict=True)]
            if min(rest) > 0:  # else less than the parts vary by
                yield row(f"{label}-overhead-given-embedding", rest, alone, "encoder alone", machine, "s/clip")
    for name, of in OWN.items():
        yield _with_own_encoders(machine, name, of, own_size)


def _with_own_encoders(machine: Machine, name: str, of: str, size: int | None) -> Row:
    """Time one frame with audio at the size of a recipe, against its two encoders alone."""
    device = torch.device(machine.device)
    model = build_small(of, size).to(device)
    spec = model.spec
    frames = torch.randint(0, 256, (1, spec.frames, spec.image_size, spec.image_size, 3), dtype=torch.uint8).to(device)
    sound = 0.1 * torch.randn(1, spec.frames, spec.window, device=device)
    valid = torch.ones(1, spec.frames, dtype=torch.bool, device=device)

    def encoders() -> None:
        model.network.encode_frames(frames)
        model.network.encode_audio(sound)

    with torch.inference_mode():
        turns = seconds(machine, lambda: model(frames, sound, valid), encoders)
    mine, alone = ([spent / spec.frames for spent in each] for each in turns)
    return row(f"inference-{name}", mine, alone, "its encoders alone", machine, "s/frame")
