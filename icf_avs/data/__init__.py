"""Data: the embedded benchmark (packages, catalog, sounds, scenes, stamps), the public layouts, and media files."""
