"""Groups of roles that several processes train together, each on a device of its own.

    train_group.py   one job under Ray Train, through lost workers
    groups.py        several of them at once
    follow.py        who is told how a training goes, with one process a group or several

Who trains in one process only is in `trainer_pool.py`. To tell more of a training, add it to `follow.Follower`.
"""
