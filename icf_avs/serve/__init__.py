"""`icf serve`: a web page that segments a video and lets the user replace the audio given to the model."""
