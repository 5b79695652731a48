"""The embedded benchmark "Stamps": its source files, and how scenes are composed, written and fed to training."""
