"""Learning: training three adapters over one frozen base, measuring them, and the reward model.

Plain classes and functions on torch, free of Ray and HTTP, so that everything here runs in one process, in a test or
inside an actor alike. `cluster` and `jobs` may import it; it imports only `curriculum` and `ledger`.

    config.py       settings
    job.py          what a training job is, what it reports, and the `Engine` protocol
    engines.py      chooses the engine; the only file that knows all of them
    generator.py    the `Generator` protocol: greedy text and log-likelihoods of a voice
    data.py         a job's examples and pairs as token rows; schedule.py: rate and rows of each step
    checkpoint.py   training state on disk; curves.py: TensorBoard; runtime.py: device, dtype, threads; driver.py: what
                    the kernel's drivers say of the cards
    models/         the frozen base and adapters on disk
    lean/           the fast forward and backward over packed rows
    fused/          the engine that trains all roles in one pass
    reference/      the engine on TRL
    sharded/        the engine on accelerate, FSDP2 and DeepSpeed, for a base that does not fit one card
    evals/          scores of a generation
    health/         the reward health index and its gates
    reward/         the reward model

Imports go downwards: engines, then sharded, fused | reference, health.probe | evals, health.online, health.gradients,
models, lean, then job, generator, config and runtime. No two of these packages import each other.

To add an engine, implement `job.Engine` in a package of its own and choose it in `engines.open_engine`; give it a
`lean` base if its gradients can be measured. To add a score, see `evals`; a model family, `lean`; a health component,
`health`.
"""
