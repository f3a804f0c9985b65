"""The reward health index (DESIGN section 7): `index` has its components, `gate` what follows, both pure; `gradients`
asks the model, `probe` measures a candidate, `online` a run in training, `report` makes records and curves.

To add a component, write it in `index` as a function of tensors that gives a `Measured`, add it to `Components` and
`WEIGHTS`, and measure what it needs in `probe.measure_role`.
"""
