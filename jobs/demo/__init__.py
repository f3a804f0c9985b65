"""`luna demo`: four generations and a reward model, from nothing.

`run` raises the generations, one `DemoStep` of `run.STEPS` each: to show another lesson, add a step there. `reward`
distils the reward model and shows an answer's vector before and after; `commands` is the command.
"""
