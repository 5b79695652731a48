"""From a trained model to masks: one predictor, and the steps that its mask logits pass afterwards."""
