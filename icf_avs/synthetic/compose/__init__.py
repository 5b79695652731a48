"""`icf data compose`: build a set in the AVSS layout from images with masks and recordings of any source."""
