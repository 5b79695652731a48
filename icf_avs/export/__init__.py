"""`icf export`: export models as graphs for other runtimes."""
