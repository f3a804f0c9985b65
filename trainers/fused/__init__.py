"""The engine that trains all roles in one pass."""
