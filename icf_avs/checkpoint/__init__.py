"""Model files: reading, checking and finding them, the Hugging Face hub, export to other runtimes."""
