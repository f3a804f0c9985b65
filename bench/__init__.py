"""Measurements, not tests: each module prints one table and writes it under `bench/results/`."""
