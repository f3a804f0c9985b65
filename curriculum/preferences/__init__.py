"""Preference pairs: two answers to one prompt, the better one first.

`pairs` makes them from labels, corrections and valences, merges and stores them; `sources` reads them from files and
splits them by prompt. To add a source: give its pairs an origin of `pairs.ORIGINS`, whose order says who outweighs
whom, and put them among the sets in `jobs/generation/preferences.py`.
"""
