"""What `bench.stream` is made of: one course is one arm with one seed through all lessons.

`arms` names the arms, `learning` teaches a lesson (a real generation, or the engine alone), `asking` puts the probes,
`log` keeps each result in a line of JSON so that a broken run goes on, `scores` has the figures, `table` the tables.
"""
