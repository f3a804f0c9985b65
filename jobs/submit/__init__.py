"""Jobs of Ray: `luna submit` and `luna jobs`.

`request` decides what is submitted (pure but for a look at the home), `server` speaks with Ray's job server, `stopping`
ends a job after its generation has paused; `commands` are the commands.
"""
