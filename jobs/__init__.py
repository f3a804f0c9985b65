"""What a user runs: the command `luna` and the jobs that can be submitted to a Ray cluster, one small module each.

This is the top layer: it may import everything, and nothing imports it. Torch and Ray are imported inside functions,
so that `luna --help` answers at once.
"""
