"""All terms of the guided network's loss, and the only home of their weights.

CDCL, collaborative distribution-aware contrastive learning:

    W2^2(p, q) = |mu_p - mu_q|^2 + |sigma_p - sigma_q|^2          2-Wasserstein distance of diagonal Gaussians
    loss(x -> y) = -log  exp(-W2^2(x_i, y_i)/tau) / sum over y_i, negatives and counterfactuals

Inter-modality: audio-vision, audio-text, vision-text, both ways, vision pooled over the sounding region. Collaborative:
the counterfactuals of clip i stand in the denominators of the terms anchored in its vision, the silent region of the
same image in those anchored in its audio; one temperature for all. Negatives are clips of the whole batch, also those
of other processes. Clips that share a sounding class are never negatives of each other, nor are clips whose classes are
unknown. Not from the paper, which gives the two contrasts and that they collaborate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icf_avs.distributed import all_gather_clips, local_slice, masked_mean
from icf_avs.extensions.intervention_losses import other_frames, other_sounds, removed_source, sounding_classes
from icf_avs.icf import mask_losses
from icf_avs.icf.soft_class_targets import class_shares, present, share
from icf_avs.networks.guided_parts.joint_embedding import Gaussian, JointEmbedding
from icf_avs.networks.pooling import grid_means

if TYPE_CHECKING:
    from icf_avs.networks.guided import GuidedOutput
    from icf_avs.types import Batch


@dataclass(frozen=True)
class GuidedLossWeights:
    """Weight of each term of the loss."""

    bce: float = 1.0
    dice: float = 1.0
    semantic: float = 1.0
    prior: float = 0.5
    sound_reading: float = 0.3
    pixel_reading: float = 0.3
    counterfactual: float = 0.3
    source_removal: float = 0.3
    visual_counterfactual: float = 0.3
    extra_audio: float = 2.0
    generator: float = 0.2
    contrast: float = 0.1


# The last stage starts from a model that already leaves blank what does not sound: there, suppression is eased.
HIGHRES_WEIGHTS = GuidedLossWeights(counterfactual=0.1, visual_counterfactual=0.1)


def guided_loss(
    output: GuidedOutput, batch: Batch, space: JointEmbedding | None, weights: GuidedLossWeights
) -> dict[str, Tensor]:
    """Named terms, unweighted, and their weighted sum as "loss". A part that is absent contributes no term.

    Under several processes each has its part of the batch; the mean of what they return is that of the whole batch.
    """
    frames = batch.labelled & batch.valid
    terms = {
        "bce": mask_losses.bce(output.logits, batch.masks, frames),
        "dice": mask_losses.dice(output.logits, batch.masks, frames),
    }
    if output.classes is not None:
        shares = class_shares(batch.class_map, batch.masks, output.classes.shape[2] - 1)
        terms["semantic"] = mask_losses.semantic(output.classes, shares, frames)
    if output.prior is not None:
        terms["prior"] = mask_losses.bce(output.prior, _like(batch.masks, output.prior), frames)
    if batch.sounding.shape[-1] and output.reading is not None:
        terms["sound_reading"] = sound_reading(output.reading, batch.sounding, batch.valid & batch.known)
        terms["pixel_reading"] = pixel_reading(output.pixel_reading, batch.class_map, batch.masks, frames)
    if output.counterfactuals is not None:
        counterfactuals, removal = output.counterfactuals, output.counterfactuals.removal
        of_counterfactuals = (output.counterfactual_logits, counterfactuals.classes, counterfactuals.known)
        terms["counterfactual"] = other_sounds(*of_counterfactuals, batch, frames, output.synonyms)
        terms["visual_counterfactual"] = other_frames(
            output.visual_counterfactual_logits, batch, frames, output.synonyms
        )
        if batch.sounding.shape[-1]:
            terms["source_removal"] = removed_source(
                output.source_removal_logits, removal.removed, removal.valid, batch, frames
            )
        if counterfactuals.fit is not None:
            terms["generator"] = counterfactuals.fit
    if output.extra_logits is not None:
        truth = batch.other_masks.transpose(0, 1)
        every = frames.expand(truth.shape[:-2])
        terms["extra_audio"] = mask_losses.bce(output.extra_logits, truth, every) + mask_losses.dice(
            output.extra_logits, truth, every
        )
    if space is not None:
        terms["contrast"] = _contrast(output, batch, frames, space)
    scale = asdict(weights)
    terms["loss"] = torch.stack([scale[name] * value for name, value in terms.items()]).sum()
    return terms


def _contrast(output: GuidedOutput, batch: Batch, frames: Tensor, space: JointEmbedding) -> Tensor:
    """Mean of the CDCL terms over the modalities that exist."""
    patches = output.patches.flatten(1, 2)  # B (T P) D
    marked = _patch_share(batch.masks * frames[..., None, None], output)  # B (T P), of each patch that sounds
    sounds = frames & (batch.masks.sum((-2, -1)) > 0)  # frames where something is marked
    silent = (_patch_share(1 - batch.masks, output) >= 1) & sounds.repeat_interleave(
        marked.shape[1] // sounds.shape[1], 1
    )
    present, known = sounds.any(1), (batch.known | ~sounds).all(1)
    length = output.parts.shape[2]

    vision = space.of_vision(patches, marked)
    audio = space.of_audio(output.parts.flatten(1, 2), sounds.repeat_interleave(length, 1).float())
    hard = space.of_vision(patches, silent.float())
    hard = (Gaussian(hard.mean[:, None], hard.deviation[:, None]), silent.any(1, keepdim=True))
    others = negatives(all_gather_clips(sounding_classes(batch, output.synonyms)), all_gather_clips(present & known))[
        local_slice()
    ]
    temperature = space.temperature
    hard_audio: list[tuple[Gaussian, Tensor]] = []
    hard_text: list[tuple[Gaussian, Tensor]] = []
    if output.counterfactuals is not None:
        distinct = ~(output.counterfactuals.classes & sounding_classes(batch, output.synonyms)).any(-1).T  # B K
        # It takes the factual parts in time along, or its spread alone would tell it from the factual sound.
        change = output.counterfactuals.sounds - output.semantic.detach()
        moved = change[:, :, :, None] + output.parts.detach()  # K B T L D
        tokens, of_parts = moved.flatten(2, 3).transpose(0, 1), sounds.repeat_interleave(length, 1)
        hard_audio = [(space.of_audio(tokens, _each(of_parts, len(moved))), distinct)]
        if output.counterfactual_text is not None:
            tokens = output.counterfactual_text.flatten(2, 3).transpose(0, 1)  # B K (T n) D
            of_frames = sounds.repeat_interleave(output.counterfactual_text.shape[3], 1)
            hard_text = [(space.of_text(tokens, _each(of_frames, len(moved))), distinct)]

    def term(anchor: Gaussian, positive: Gaussian, extra: list[tuple[Gaussian, Tensor]]) -> Tensor:
        return info_nce(anchor, positive, others, extra, temperature, present)

    terms = [term(audio, vision, [hard]), term(vision, audio, hard_audio)]
    if "frame" in output.text:
        tokens = output.text["frame"]
        text = space.of_text(tokens.flatten(1, 2), sounds.repeat_interleave(tokens.shape[2], 1).float())
        terms += [
            term(audio, text, []),
            term(text, audio, []),
            term(vision, text, hard_text),
            term(text, vision, [hard]),
        ]
    return torch.stack(terms).mean()


def _like(masks: Tensor, maps: Tensor) -> Tensor:
    """Area average of masks [B,T,h,w] at the size of maps [B,T,h',w']."""
    return grid_means(masks, maps.shape[-2:])


def _patch_share(masks: Tensor, output: GuidedOutput) -> Tensor:
    """Masks at the grid of the patches, flattened: [B, T*P]."""
    side = round(output.patches.shape[2] ** 0.5)
    return grid_means(masks, side).flatten(1)


def _each(frames: Tensor, count: int) -> Tensor:
    """GuidedLossWeights [B,n] of a clip's tokens, for each of its K counterfactuals: [B,K,n]."""
    return frames.float()[:, None].expand(-1, count, -1)


def sound_reading(logits: Tensor, sounding: Tensor, frames: Tensor) -> Tensor:
    """Cross-entropy of a reading with what sounds.

    logits [B,T,M] (names, then "nothing sounds", then other free words), sounding [B,T,C] bool, frames [B,T] bool of
    which it is known what sounds. The target shares its weight among the sounding classes; a frame where none sounds is
    "nothing sounds".
    """
    target = torch.zeros_like(logits)
    silent = ~sounding.any(-1, keepdim=True)
    target[..., : sounding.shape[-1] + 1] = torch.cat([sounding, silent], dim=-1).to(logits.dtype)
    target = target / target.sum(-1, keepdim=True)
    return masked_mean(-(target * logits.log_softmax(-1)).sum(-1), frames)


def pixel_reading(logits: Tensor, class_map: Tensor, masks: Tensor, frames: Tensor) -> Tensor:
    """Cross-entropy of the reading of sounding positions with their classes, each by the share that it takes: logits
    [B,T,M,h,w], class_map [B,T,H,W], masks [B,T,h',w'], frames [B,T] bool.
    """
    log_probability = logits.log_softmax(2)
    coarse = torch.nn.functional.adaptive_avg_pool2d(masks, logits.shape[-2:])
    cost, weight = torch.zeros_like(coarse), torch.zeros_like(coarse)
    for number in present(class_map):
        part = share(class_map == number, coarse) * frames[..., None, None]
        cost, weight = cost - part * log_probability[:, :, number - 1], weight + part
    return masked_mean(cost / weight.clamp(min=1e-6), weight)


def wasserstein(p: Gaussian, q: Gaussian) -> Tensor:
    """Squared 2-Wasserstein distance; the leading dimensions broadcast."""
    return (p.mean - q.mean).square().sum(-1) + (p.deviation - q.deviation).square().sum(-1)


def info_nce(
    anchor: Gaussian,
    positive: Gaussian,
    negatives: Tensor,
    extra: list[tuple[Gaussian, Tensor]],
    temperature: Tensor,
    present: Tensor,
) -> Tensor:
    """One direction: anchors and positives [b,d] of this process; negatives [b,B] bool, which positives of the whole
    batch may be negatives of which anchor; extra: Gaussians [b,k,d] that are negatives of their own anchor, where [b,k]
    bool; present [b] bool, clips that take part.

    Zero for a batch in which no anchor has anything to be told from.
    """

    def column(x: Gaussian) -> Gaussian:
        return Gaussian(x.mean[:, None], x.deviation[:, None])

    others = wasserstein(
        column(anchor), Gaussian(all_gather_clips(positive.mean)[None], all_gather_clips(positive.deviation)[None])
    )  # b B
    own = wasserstein(anchor, positive)[:, None]
    distance = torch.cat([own, others] + [wasserstein(column(anchor), other) for other, _ in extra], dim=1)
    usable = torch.cat([torch.ones_like(own, dtype=torch.bool), negatives] + [where for _, where in extra], dim=1)
    logits = (-distance / temperature).masked_fill(~usable, float("-inf"))
    return masked_mean(-logits.log_softmax(1)[:, 0], present & usable[:, 1:].any(1))


def negatives(sounding: Tensor, present: Tensor) -> Tensor:
    """[B,C] bool classes, [B] bool -> [B,B] bool: different clips, both present, no sounding class in common."""
    shared = (sounding.to(torch.float32) @ sounding.to(torch.float32).T) > 0
    return ~shared & ~torch.eye(len(shared), dtype=torch.bool, device=shared.device) & present[None] & present[:, None]
