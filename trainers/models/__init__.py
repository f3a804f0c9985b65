"""The frozen base and the adapters over it."""
