"""What a segmented video leaves on disk: overlay.mp4, masks/*.png, segmentation.json and sheet.png."""
