"""The embedded benchmark "Stamps": where its files come from, how scenes are composed, written and fed to training."""
