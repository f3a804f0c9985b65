"""`luna reward`: train, measure and question the reward model."""
