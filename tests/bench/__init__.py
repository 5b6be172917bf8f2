"""Benchmarks: ratios in one run on the local Kafka. `python -m tests.bench stream --json FILE`."""
