"""Tests of the repository itself: pins, layers, configs, the setup script, what the tree may name."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
