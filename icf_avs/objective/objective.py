"""All terms of the training loss, and the only home of their weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.contracts import Batch
from icf_avs.model.counterfactual import widened
from icf_avs.model.icf import Output
from icf_avs.model.shared_space import Gaussian, SharedSpace
from icf_avs.objective import contrastive, mask, naming


@dataclass(frozen=True)
class Weights:
    """Weight of each term of the loss."""

    bce: float = 1.0
    dice: float = 1.0
    semantic: float = 1.0
    prior: float = 0.5
    sound_reading: float = 0.3
    pixel_reading: float = 0.3
    rivals: float = 0.3
    rest: float = 0.3
    foreign: float = 0.3
    others: float = 2.0
    generator: float = 0.2
    contrast: float = 0.1


# The finishing stage starts from a model that already leaves blank what it does not hear: there, suppression is eased.
FINISHING = Weights(rivals=0.1, foreign=0.1)


def objective(output: Output, batch: Batch, space: SharedSpace | None, weights: Weights) -> dict[str, Tensor]:
    """Named terms, unweighted, and their weighted sum as "loss". A part that is absent contributes no term."""
    frames = batch.labelled & batch.valid
    terms = {"bce": mask.bce(output.logits, batch.masks, frames), "dice": mask.dice(output.logits, batch.masks, frames)}
    if output.classes is not None:
        terms["semantic"] = mask.semantic(output.classes, batch.kinds_map, frames)
    if output.prior is not None:
        terms["prior"] = mask.bce(output.prior, _like(batch.masks, output.prior), frames)
    if batch.sounding.any() and output.reading is not None:
        terms["sound_reading"] = naming.sound_reading(output.reading, batch.sounding, batch.valid)
        terms["pixel_reading"] = naming.pixel_reading(output.pixel_reading, batch.kinds_map, frames)
    if output.rivals is not None:
        terms["rivals"], terms["foreign"] = _rivals(output, batch, frames), _foreign(output, batch, frames)
        terms["rest"] = _rest(output, batch, frames)
        if output.rivals.fit is not None:
            terms["generator"] = output.rivals.fit
    if output.other_logits is not None:
        truth = batch.other_masks.transpose(0, 1)
        every = frames.expand(truth.shape[:-2])
        terms["others"] = mask.bce(output.other_logits, truth, every) + mask.dice(output.other_logits, truth, every)
    if space is not None:
        terms["contrast"] = _contrast(output, batch, frames, space)
    scale = asdict(weights)
    terms["loss"] = torch.stack([scale[name] * value for name, value in terms.items()]).sum()
    return terms


def _rivals(output: Output, batch: Batch, frames: Tensor) -> Tensor:
    """do(audio := z~_k), picture kept: the factual mask vanishes, and the whole picture is blank where the
    rival is known to be absent from it."""
    kinds = output.rivals.kinds  # K B C
    factual = _kinds(output, batch)
    other = ~(kinds & factual).any(-1)  # a rival that shares a sounding kind may rightly mark it
    absent = torch.zeros_like(other)
    if batch.onscreen is not None:
        absent = output.rivals.known & ~(kinds & batch.onscreen).any(-1)
    count = len(kinds)
    return mask.blank(
        output.rival_logits,
        batch.masks.expand(count, *batch.masks.shape),
        absent[..., None] & frames,
        other[..., None] & frames,
    )


def _kinds(output: Output, batch: Batch) -> Tensor:
    """[B,C] bool: what sounds in a clip, and all that it may be called."""
    return widened(batch.sounding.any(1), output.akin)


def _rest(output: Output, batch: Batch, frames: Tensor) -> Tensor:
    """do(audio := z~_-b): the mask of the kind that was taken out vanishes, that of all others stays."""
    removed = output.rivals.rest.removed + 1  # ids of a map of kinds count from 1
    target = batch.masks * (batch.kinds_map != removed[:, None, None, None])
    able = frames & output.rivals.rest.able[:, None]
    return mask.bce(output.rest_logits, target, able) + mask.dice(output.rest_logits, target, able)


def _foreign(output: Output, batch: Batch, frames: Tensor) -> Tensor:
    """do(vision := another picture), sound kept: nothing in a picture that lacks what sounds."""
    own = _kinds(output, batch)
    heard = own.roll(1, 0)
    known = heard.any(-1)
    other = known & ~(heard & own).any(-1)
    absent = torch.zeros_like(other)
    if batch.onscreen is not None:
        absent = known & ~(heard & batch.onscreen).any(-1)
    return mask.blank(output.foreign_logits, batch.masks, absent[:, None] & frames, other[:, None] & frames)


def _contrast(output: Output, batch: Batch, frames: Tensor, space: SharedSpace) -> Tensor:
    """Mean of the CDCL terms over the modalities that exist."""
    patches = output.patches.flatten(1, 2)  # B (T P) D
    share = _patch_share(batch.masks * frames[..., None, None], output)  # B (T P), of each patch that sounds
    sounds = frames & (batch.masks.sum((-2, -1)) > 0)  # frames where something is marked
    silent = (_patch_share(1 - batch.masks, output) >= 1) & sounds.repeat_interleave(
        share.shape[1] // sounds.shape[1], 1
    )
    present = sounds.any(1)
    length = output.parts.shape[2]

    vision = space.of_vision(patches, share)
    audio = space.of_audio(output.parts.flatten(1, 2), sounds.repeat_interleave(length, 1).float())
    hard = space.of_vision(patches, silent.float())
    hard = (Gaussian(hard.mean[:, None], hard.deviation[:, None]), silent.any(1, keepdim=True))
    others = contrastive.negatives(_kinds(output, batch), present)
    temperature = space.log_temperature.exp()
    rivals: list[tuple[Gaussian, Tensor]] = []
    rival_text: list[tuple[Gaussian, Tensor]] = []
    if output.rivals is not None:
        distinct = ~(output.rivals.kinds & _kinds(output, batch)).any(-1).T  # B K
        # A rival takes the factual parts in time along, or its spread alone would tell it from the factual sound.
        moved = (output.rivals.sounds - output.sound.detach())[:, :, :, None] + output.parts.detach()  # K B T L D
        tokens, of_parts = moved.flatten(2, 3).transpose(0, 1), sounds.repeat_interleave(length, 1)
        rivals = [(space.of_audio(tokens, _each(of_parts, len(moved))), distinct)]
        if output.rival_text is not None:
            tokens = output.rival_text.flatten(2, 3).transpose(0, 1)  # B K (T n) D
            of_frames = sounds.repeat_interleave(output.rival_text.shape[3], 1)
            rival_text = [(space.of_text(tokens, _each(of_frames, len(moved))), distinct)]

    def term(anchor: Gaussian, positive: Gaussian, extra: list[tuple[Gaussian, Tensor]]) -> Tensor:
        return contrastive.info_nce(anchor, positive, others, extra, temperature, present)

    terms = [term(audio, vision, [hard]), term(vision, audio, rivals)]
    if "frame" in output.text:
        tokens = output.text["frame"]
        text = space.of_text(tokens.flatten(1, 2), sounds.repeat_interleave(tokens.shape[2], 1).float())
        terms += [
            term(audio, text, []),
            term(text, audio, []),
            term(vision, text, rival_text),
            term(text, vision, [hard]),
        ]
    return torch.stack(terms).mean()


def _like(masks: Tensor, maps: Tensor) -> Tensor:
    """Area average of masks [B,T,h,w] at the size of maps [B,T,h',w']."""
    return F.adaptive_avg_pool2d(masks, maps.shape[-2:])


def _patch_share(masks: Tensor, output: Output) -> Tensor:
    """Masks at the grid of the patches, flattened: [B, T*P]."""
    side = round(output.patches.shape[2] ** 0.5)
    return F.adaptive_avg_pool2d(masks, side).flatten(1)


def _each(frames: Tensor, count: int) -> Tensor:
    """Weights [B,n] of a clip's tokens, for each of its K rivals: [B,K,n]."""
    return frames.float()[:, None].expand(-1, count, -1)
