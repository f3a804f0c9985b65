"""Measuring a model: what is asked, how answers are scored."""
