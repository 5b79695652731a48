"""Model files: reading, checking and finding them, and their cards."""
