"""`luna reward`: train, measure and question the reward model.

`commands` is what the user types; `training` makes a model of labels and puts it to use; `report` prints; `health` and
`plot` are commands of their own. Add one as a function that `commands.py` registers.
"""
