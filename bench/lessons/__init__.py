"""The ten lessons of `bench.stream`: what each role is taught, and what it is asked afterwards.

`lesson` has the types and how questions are shared out, one file each makes the questions of a kind, `chosen` names
the ten and their order. To add a lesson: write its function, name it there.
"""
