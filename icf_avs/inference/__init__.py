"""Inference: the predictor that turns frames and audio into masks, and the post-processing of mask logits."""
