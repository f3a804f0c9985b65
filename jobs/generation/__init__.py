"""Raising generations and looking at them.

`run` asks the coordinator for one and `follow` shows it until the verdict; `show` prints what the ledger has;
`reproduce` trains one again and compares the bytes; `regress` asks one the prompts that are kept by hand.
The commands are in `commands.py`; add one there.
"""
