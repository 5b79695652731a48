"""Encoders: features of images, audio and class names."""
