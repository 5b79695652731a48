"""`icf data compose`: images with masks and recordings from anywhere become a set in the AVSS layout."""
