"""Robustness to negative audio: does a model mark what sounds, or whatever stands out in the picture?"""
