"""The engine on TRL and PEFT: the fallback for other model families, and what the fused engine is checked against."""
