"""Speed benchmarks: `python -m benchmarks`. Robustness checks: fuzz_media.py, long_media.py, serve_load.py, etc."""
