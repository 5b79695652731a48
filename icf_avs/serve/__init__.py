"""`icf serve`: a page that segments a video and lets one change the sound of the model."""
