"""Benchmarks: `python -m bench.engines [--quick]`, `python -m bench.study`."""
