"""What the open-vocabulary network adds to the guided one: one file each."""
