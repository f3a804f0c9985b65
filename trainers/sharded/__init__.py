"""The engine for a base that does not fit one card, and for training a whole base: accelerate, FSDP2 and DeepSpeed.

`engine` trains one learner after another: an adapter of each role, or the whole base (`learner`). `run` is one learner
in training, `shares` what each worker takes of a step, `passes` and `reference` what is asked of a model, `placement`
what a strategy does: PyTorch's own in `native`, DeepSpeed's in `zero`.

To add a strategy, implement `placement.Placement` and choose it in `strategies.placed`.
"""
