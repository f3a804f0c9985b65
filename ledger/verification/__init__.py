"""Checking a home against its record."""
