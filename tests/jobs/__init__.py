"""Jobs: what `luna` runs."""
