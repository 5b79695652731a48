"""(a) Seconds for a clip of five frames at 224x224: ours, TPAVI with the same encoder, and the encoder alone.

Ours hears waves, so its time has the whole audio encoder in it (VGGish, with the full-size ones); TPAVI is given the
sound's embedding. "overhead" is ours less the encoder, beside the encoder: a ratio of 2.5 is the 40 % that it may be.
"overhead-given-embedding" is the same where ours too is given what VGGish says of the sound, as TPAVI is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from benchmarks.models import EMBEDDED, PVT, RESNET, Encoder, batch, embedding, given_embedding, ours, tpavi
from benchmarks.table import Row
from benchmarks.turns import Machine, row, seconds


def inference(
    machine: Machine, encoders: Sequence[Encoder] = (PVT, RESNET, EMBEDDED), size: int = 224
) -> Iterator[Row]:
    """Rows inference-NAME: against TPAVI, but for the embedded encoder; against the encoder alone; the overhead, and
    but for the embedded encoder, whose ear is its own, that without VGGish.
    """
    given = batch(size=size).to(torch.device(machine.device))
    for encoder in encoders:
        device = torch.device(machine.device)
        model = ours(encoder).to(device)
        programs = [
            lambda model=model: model(given.frames, given.waveforms, given.valid),
            lambda model=model: model.network.encode_frames(given.frames),
        ]
        if encoder is not EMBEDDED:
            told, heard = given_embedding(model, given)
            programs.append(lambda told=told, heard=heard: told(given.frames, heard, given.valid))
            peer, sound = tpavi(encoder).to(device), embedding(given).to(device)
            programs.append(lambda peer=peer, sound=sound: peer(given.frames, sound))
        with torch.inference_mode():
            mine, floor, *others = seconds(machine, *programs)
        name, unit = f"inference-{encoder.name}", "s/clip"
        if others:
            yield row(name, mine, others[1], "TPAVI, same encoder", machine, unit)
        yield row(name, mine, floor, "encoder alone", machine, unit)
        rests = {"overhead": mine}
        if others:
            rests["overhead-given-embedding"] = others[0]
        for kind, spent in rests.items():
            rest = [whole - part for whole, part in zip(spent, floor, strict=True)]
            yield row(f"{name}-{kind}", rest, floor, "encoder alone", machine, unit)
