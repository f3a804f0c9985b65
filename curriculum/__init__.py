"""What Luna learns, and what it is asked.

    example.py  render.py           the one record of all data; the one place where a prompt becomes text
    agl/  recipes/  phases.py       generated data: puzzles, role recipes, the phases of a mind that starts empty
    everyday/                       what anybody may be asked, and lessons of how Luna answers it
    importing/                      the user's own files
    conversations/                  stored talks as lessons; sample dialogues
    teacher/  reward/  preferences/ what answers are worth: asking a judge, its labels, pairs of answers
    mix.py  replay.py  split.py     a generation's training set and holdout
    tone/  regression.py            what every candidate is asked: tone probes and their detector, prompts kept by hand
    parquet.py  jsonl.py            how data is stored and read
    inspect.py  proportions.py      what a set holds; whole counts in given proportions

Everything here is a pure function over records, or reads and writes one file. It imports `ledger` alone, and neither
Ray nor torch. To add a set for `luna curriculum build`: write a function that gives `Example` records, and name it in
`SETS` of `jobs/curriculum.py`. Each sub-package says how to add one more of its own.
"""
