"""`icf export`: models as graphs that other runtimes run."""
