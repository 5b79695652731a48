"""Robustness to negative audio: does a model segment sounding objects, or any salient object?"""
