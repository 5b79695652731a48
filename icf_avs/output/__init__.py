"""Output files of a segmented video: overlay.mp4, masks/*.png, segmentation.json and sheet.png."""
