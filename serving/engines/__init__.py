"""The engines that answer, and the adapters that they may be given."""
