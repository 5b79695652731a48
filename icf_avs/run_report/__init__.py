"""`icf report RUN`: a training run on one page."""
