"""`luna demo`: four generations and a reward model, from nothing."""
