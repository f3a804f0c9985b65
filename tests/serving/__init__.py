"""The server: names, validation, the front, and all of it for real."""
