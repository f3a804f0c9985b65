"""The reward model: `encoder` and `features` read an answer, `rows` holds labels and pairs, `train` fits the heads,
`model` scores and is saved, `report` measures it beside baselines, `probe` looks into one judgement.

To add a feature, add its name and count to `features`; models trained before are refused and trained again.
"""
