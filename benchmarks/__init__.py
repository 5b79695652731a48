"""Speed: `python -m benchmarks`. What may not break: fuzz_media.py, long_media.py, serve_load.py."""
