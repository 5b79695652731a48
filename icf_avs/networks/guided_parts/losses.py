"""All loss terms of the guided network, and the only definition of their weights.

CDCL, collaborative distribution-aware contrastive learning:

    W2^2(p, q) = |mu_p - mu_q|^2 + |sigma_p - sigma_q|^2          2-Wasserstein distance of diagonal Gaussians
    loss(x -> y) = -log  exp(-W2^2(x_i, y_i)/tau) / sum over y_i, negatives and counterfactuals

Inter-modality: audio-vision, audio-text, vision-text, in both directions, vision pooled over the sounding region.
Collaborative: the counterfactuals of clip i are in the denominators of the terms anchored in its vision, the silent
region of the same image in the terms from its audio or text to vision; one temperature for all. Negatives are clips
of the whole batch, over all processes. Clips that share a sounding class are never negatives of each other, nor are
clips of unknown classes. Not from the paper, which only says that there are two contrasts and that they collaborate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from icf_avs.distributed import all_gather_clips, local_slice, masked_mean
from icf_avs.extensions.intervention_losses import (
    other_frames_loss,
    other_sound_loss,
    removed_source_loss,
    sounding_classes,
)
from icf_avs.mask_losses import bce_loss, dice_loss, semantic_loss
from icf_avs.networks.guided import GuidedOutput
from icf_avs.networks.guided_parts.joint_embedding import Gaussian, JointEmbedding
from icf_avs.networks.pooling import grid_means
from icf_avs.soft_class_targets import area_share, class_shares, present_class_ids
from icf_avs.types import Batch

Negatives = tuple[Gaussian, Tensor]  # Gaussians [b,k,d], negatives of anchor b only; [b,k] bool: where they are used


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


# The last stage starts from a model that already suppresses silent objects, so suppression has lower weights.
HIGHRES_WEIGHTS = GuidedLossWeights(counterfactual=0.1, visual_counterfactual=0.1)


def guided_loss(
    output: GuidedOutput, batch: Batch, space: JointEmbedding | None, weights: GuidedLossWeights
) -> dict[str, Tensor]:
    """Return the unweighted terms by name, and their weighted sum as "loss". An absent part contributes no term.

    With several processes each has a part of the batch; the mean of their results is that of the whole batch.
    """
    masks, frame_mask, has_classes = batch.masks, batch.labelled & batch.valid, batch.sounding.shape[-1] > 0
    terms = {"bce": bce_loss(output.logits, masks, frame_mask), "dice": dice_loss(output.logits, masks, frame_mask)}
    if output.classes is not None:
        shares = class_shares(batch.class_map, masks, output.classes.shape[2] - 1)
        terms["semantic"] = semantic_loss(output.classes, shares, frame_mask)
    if output.prior is not None:
        terms["prior"] = bce_loss(output.prior, grid_means(masks, output.prior.shape[-2:]), frame_mask)
    if has_classes and output.reading is not None:
        terms["sound_reading"] = sound_reading_loss(output.reading, batch.sounding, batch.valid & batch.known)
        pixel_reading = cast(Tensor, output.pixel_reading)
        terms["pixel_reading"] = pixel_reading_loss(pixel_reading, batch.class_map, masks, frame_mask)
    if (drawn := output.counterfactuals) is not None:
        sounds, frames = cast(Tensor, output.counterfactual_logits), cast(Tensor, output.visual_counterfactual_logits)
        sound_loss = other_sound_loss(sounds, drawn.classes, drawn.known, batch, frame_mask, output.synonyms)
        terms["counterfactual"] = sound_loss
        terms["visual_counterfactual"] = other_frames_loss(frames, batch, frame_mask, output.synonyms)
        if has_classes:
            removal, removal_logits = drawn.removal, cast(Tensor, output.source_removal_logits)
            terms["source_removal"] = removed_source_loss(
                removal_logits, removal.removed, removal.valid, batch, frame_mask
            )
        if drawn.generator_loss is not None:
            terms["generator"] = drawn.generator_loss
    if output.extra_logits is not None:
        truth = cast(Tensor, batch.other_masks).transpose(0, 1)
        loss_args = output.extra_logits, truth, frame_mask.expand(truth.shape[:-2])
        terms["extra_audio"] = bce_loss(*loss_args) + dice_loss(*loss_args)
    if space is not None:
        terms["contrast"] = contrastive_loss(output, batch, frame_mask, space)
    scale = asdict(weights)
    terms["loss"] = torch.stack([scale[name] * value for name, value in terms.items()]).sum()
    return terms


def contrastive_loss(output: GuidedOutput, batch: Batch, frame_mask: Tensor, space: JointEmbedding) -> Tensor:
    """Return the mean of the CDCL terms over the available modalities."""

    def patch_share(masks: Tensor) -> Tensor:
        """Average masks to the grid of the patches, flattened: [B, T*P]."""
        return grid_means(masks, round(output.patches.shape[2] ** 0.5)).flatten(1)

    def tokens_of(frames: Tensor, per_frame: int) -> Tensor:
        """[B,T] bool -> [B,T*n], for n = `per_frame` tokens per frame."""
        return frames.repeat_interleave(per_frame, 1)

    patches, length = output.patches.flatten(1, 2), output.parts.shape[2]  # B (T P) D
    sounding_frames = frame_mask & (batch.masks.sum((-2, -1)) > 0)  # frames with a non-empty mask
    sounding_share = patch_share(batch.masks * frame_mask[..., None, None])  # B (T P), sounding share of each patch
    num_patches = sounding_share.shape[1] // sounding_frames.shape[1]
    silent = (patch_share(1 - batch.masks) >= 1) & tokens_of(sounding_frames, num_patches)
    present, known = sounding_frames.any(1), (batch.known | ~sounding_frames).all(1)
    classes = sounding_classes(batch, output.synonyms)
    negatives = may_be_negatives(all_gather_clips(classes), all_gather_clips(present & known))[local_slice()]

    vision = space.of_vision(patches, sounding_share)
    audio = space.of_audio(output.parts.flatten(1, 2), tokens_of(sounding_frames, length).float())
    region = space.of_vision(patches, silent.float())
    silent_region = [(Gaussian(region.mean[:, None], region.deviation[:, None]), silent.any(1, keepdim=True))]
    temperature = space.temperature
    other_audio: list[Negatives] = []
    other_text: list[Negatives] = []
    if output.counterfactuals is not None:
        distinct = ~(output.counterfactuals.classes & classes).any(-1).T  # B K
        # Keep the factual variation in time: otherwise the spread alone would distinguish it from the factual sound.
        change = output.counterfactuals.sounds - output.semantic.detach()
        shifted_parts = change[:, :, :, None] + output.parts.detach()  # K B T L D

        def per_counterfactual(frames: Tensor) -> Tensor:
            """Repeat the token weights [B,n] of a clip for each of its K counterfactuals: [B,K,n]."""
            return frames.float()[:, None].expand(-1, len(shifted_parts), -1)

        tokens = shifted_parts.flatten(2, 3).transpose(0, 1)
        other_audio = [(space.of_audio(tokens, per_counterfactual(tokens_of(sounding_frames, length))), distinct)]
        if output.counterfactual_text is not None:
            tokens = output.counterfactual_text.flatten(2, 3).transpose(0, 1)  # B K (T n) D
            weights = per_counterfactual(tokens_of(sounding_frames, output.counterfactual_text.shape[3]))
            other_text = [(space.of_text(tokens, weights), distinct)]

    def term(anchor: Gaussian, positive: Gaussian, extra: list[Negatives]) -> Tensor:
        return info_nce(anchor, positive, negatives, extra, temperature, present)

    terms = [term(audio, vision, silent_region), term(vision, audio, other_audio)]
    if "frame" in output.text:
        tokens = output.text["frame"]
        text = space.of_text(tokens.flatten(1, 2), tokens_of(sounding_frames, tokens.shape[2]).float())
        terms += [term(audio, text, []), term(text, audio, [])]
        terms += [term(vision, text, other_text), term(text, vision, silent_region)]
    return torch.stack(terms).mean()


def sound_reading_loss(logits: Tensor, sounding: Tensor, frame_mask: Tensor) -> Tensor:
    """Cross-entropy between the reading of a sound and the sounding classes.

    logits [B,T,M] (names, then "nothing sounds", then other free words), sounding [B,T,C] bool, frame_mask [B,T] bool:
    frames whose sounding classes are known. The target is uniform over the sounding classes, or "nothing sounds" in a
    frame without any.
    """
    target = torch.zeros_like(logits)
    silent = ~sounding.any(-1, keepdim=True)
    target[..., : sounding.shape[-1] + 1] = torch.cat([sounding, silent], dim=-1).to(logits.dtype)
    target = target / target.sum(-1, keepdim=True)
    return masked_mean(-(target * logits.log_softmax(-1)).sum(-1), frame_mask)


def pixel_reading_loss(logits: Tensor, class_map: Tensor, masks: Tensor, frame_mask: Tensor) -> Tensor:
    """Cross-entropy between the readings of sounding positions and their classes, each weighted by its share. logits
    [B,T,M,h,w], class_map [B,T,H,W], masks [B,T,h',w'], frame_mask [B,T] bool.
    """
    log_probability = logits.log_softmax(2)
    coarse = F.adaptive_avg_pool2d(masks, (logits.shape[-2], logits.shape[-1]))
    cost, weight = torch.zeros_like(coarse), torch.zeros_like(coarse)
    for class_id in present_class_ids(class_map):
        class_share = area_share(class_map == class_id, coarse) * frame_mask[..., None, None]
        cost, weight = cost - class_share * log_probability[:, :, class_id - 1], weight + class_share
    return masked_mean(cost / weight.clamp(min=1e-6), weight)


def wasserstein(p: Gaussian, q: Gaussian) -> Tensor:
    """Squared 2-Wasserstein distance; the leading dimensions broadcast."""
    return (p.mean - q.mean).square().sum(-1) + (p.deviation - q.deviation).square().sum(-1)


def info_nce(
    anchor: Gaussian, positive: Gaussian, negatives: Tensor, extra: list[Negatives], temperature: Tensor,
    present: Tensor,
) -> Tensor:  # fmt: skip
    """InfoNCE in one direction: anchors and positives [b,d] of this process; negatives [b,B] bool: which positives of
    the whole batch are negatives of which anchor; present [b] bool: clips that take part.

    Zero for a batch in which no anchor has a negative.
    """

    def distances(to: Gaussian) -> Tensor:
        return wasserstein(Gaussian(anchor.mean[:, None], anchor.deviation[:, None]), to)

    to_all = distances(Gaussian(all_gather_clips(positive.mean)[None], all_gather_clips(positive.deviation)[None]))
    own_distance = wasserstein(anchor, positive)[:, None]
    distance = torch.cat([own_distance, to_all, *(distances(other) for other, _ in extra)], dim=1)
    usable = torch.cat(
        [torch.ones_like(own_distance, dtype=torch.bool), negatives, *(where for _, where in extra)], dim=1
    )
    logits = (-distance / temperature).masked_fill(~usable, float("-inf"))
    return masked_mean(-logits.log_softmax(1)[:, 0], present & usable[:, 1:].any(1))


def may_be_negatives(sounding: Tensor, present: Tensor) -> Tensor:
    """sounding [B,C] bool, present [B] bool -> [B,B] bool: different clips, both present, without a common class."""
    shared = (sounding.to(torch.float32) @ sounding.to(torch.float32).T) > 0
    return ~shared & ~torch.eye(len(shared), dtype=torch.bool, device=shared.device) & present[None] & present[:, None]
