"""The engine on TRL: the reference, and the way for model families that the fused engine does not know."""
