"""What a rig has and what could be done with it: `luna plan` and `luna doctor`, which start nothing.

commands.py   both commands
plan.py       the plan of the next generation on the devices there are, as tables
doctor.py     checks of devices, Ray, the home and its runs; to add one, write a function that returns a `Check`
"""
