"""A finished segmentation in formats that other tools read: COCO, indexed PNG, tracks, subtitles."""
