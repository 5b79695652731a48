"""`icf serve`: a page that segments a video and lets one change what the model hears."""
