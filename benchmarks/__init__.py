"""Benchmarks: `python -m benchmarks step`. They print ratios within one run on one machine."""
