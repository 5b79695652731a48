"""Robustness to negative audio: does a model segment what sounds, or whatever stands out in the frame?"""
