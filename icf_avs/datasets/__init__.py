"""Data sets of audio-visual segmentation on disk (S4, MS3 and AVSS): read, check, prepare, batch."""
