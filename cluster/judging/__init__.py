"""From trained adapters to a verdict: who is asked what, which blends are tried, and what is written of it.

    everyday.py   what the untouched base gets right, frozen once a base
    measuring.py  child, parent and earlier generations on the same items, through one engine a judgement
    blending.py   a blend for each role that fails, chosen on one half of the items and confirmed on the other
    rows.py       the ledger's rows and the adapters' metadata

The decisions themselves are in `ledger.rules`; what each role is asked is planned and scored in `trainers.evals`.
"""
