"""The rig: Ray, the actors that train on its devices, and the coordinator, the only writer of the ledger.

    ray_head.py       starting Ray and connecting to it
    settings.py       what `luna.toml` and the profiles say
    request.py        what a job asks for, and the run that it becomes
    coordinator.py    the actor that admits runs and stores what users say; state.py has what it answers
    run_worker.py     the thread in it that raises a generation; run_log.py its log
    generation.py     a generation from its data to its verdict, on one page; steps/ has what the steps are made of,
                      judging/ what comes after training
    devices/          what Ray, torch and the drivers say of the devices, and whether they agree
    plan/             where a generation trains, in how many bytes and seconds, before anything starts
    trainer_pool.py   the trainer actors (trainer_actor.py) on the devices there are (placement.py)
    store/            the home's files on nodes that do not see it, and what comes back from there
    workers/          groups that several processes train together, under Ray Train
    server/           the coordinator's side of serving
    access/           Ray's token; metrics.py what is told to Prometheus

Only `jobs` may import it; it wraps `trainers` and `serving`, which know nothing of it. To add a step of a generation
see `steps`. To let a job ask the coordinator for more, add a method to `Coordinator` that takes and returns frozen
records, and call it with `get(coordinator_for(home).<method>.remote(...))`.
"""
