"""`luna demo`: four generations and a reward model, from nothing. Add a generation as a `DemoStep` of `run.STEPS`."""
