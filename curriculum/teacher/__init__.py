"""A teacher judges answers: `asking` builds the requests and checks what comes back, `rules` judges without a model.

`settings` names the endpoint, `seed_prompts` has the prompts, `candidates` the answers that are judged. No network
here: `jobs/teacher/` sends the requests. To add a teacher: any OpenAI-compatible endpoint is one by its address in
`[teacher]`; a judge without a model is a function like `rules.label`, with a source of its own in
`curriculum.reward.labels.Source`.
"""
