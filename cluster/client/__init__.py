"""What commands, jobs and servers see of the coordinator.

Free of what only its own process needs: a command imports this before it can ask anything.
"""
