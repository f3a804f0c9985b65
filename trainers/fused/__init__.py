"""The engine that trains all roles of a device in one pass: `engine`; one job in progress in `run`, one optimizer step
in `step`, the preference channel in `pairs`, the losses in `losses`.

To add a loss, write it in `losses` as a sum a slot over its own normaliser, and add it up in `step.channel_gradients`.
"""
