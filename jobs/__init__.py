"""What a user runs: the command `luna`, and the jobs that can be submitted to a Ray cluster.

This is the top layer: it may import everything, and nothing imports it. `cli.py` only registers; a command is a
function in the module of its job (`commands.py` where a job is a package), which imports torch and Ray inside
functions, so that `luna --help` answers at once. `context.py` has what all share: home, output, exit statuses.

To add a job: write its command, register it in `cli.py`, and list it in `submit.py` if it may run on the cluster.
"""
