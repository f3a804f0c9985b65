"""Conversations as lessons, and sample dialogues."""
