"""The reward health index: whether what is rewarded still holds together."""
