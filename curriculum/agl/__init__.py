"""AGL, the Ada Glyph Language: its three-valued logic, its fourteen families of puzzles, and a solver for their text.

`kleene` holds the truth tables, formulas and inference rules; `families` writes puzzles; `puzzles` draws whole sets;
`solve` reads a puzzle's text back and answers it. `families` says how to add one.
"""
