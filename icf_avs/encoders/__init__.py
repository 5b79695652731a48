"""Encoders: what turns pictures, sound and class names into features."""
