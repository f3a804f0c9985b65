"""Raising generations and looking at them: run, follow, show, reproduce, regress."""
