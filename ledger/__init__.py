"""What happened: records, the store, lineage and its verification, and the pure rules that decide.

Everything that a generation leaves behind is described here: the rows of the ledger and their hash chain, the
layout of a home folder, how files are written and hashed, and the decisions made from measured scores (gates,
interpolation, stop rule, karma). This is the lowest layer: every other package may import it, and it imports
none of them, and neither torch nor ray.
"""
