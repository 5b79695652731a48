"""Encoders: what turns images, sound and class names into features."""
