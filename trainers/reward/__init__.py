"""The reward model: its encoder, its training, what it says of an answer."""
