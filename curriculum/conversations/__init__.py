"""Conversations as data: `lessons` turns what users said and labelled into examples, `dialogues` reads a public corpus.

To let another kind of feedback teach: decide what should have been said, and how strongly to learn it, in
`lessons._lesson`.
"""
