"""A home that a node does not see: its files go there by content, and what is trained there comes back.

    reach.py     whether a node sees the home, and what is refused before a run is admitted
    shelves.py   where content lies under its SHA-256: a folder, NFS, S3, or the home itself through Ray
    content.py   the store over a shelf, with a node's cache; nothing is used whose SHA-256 is another
    paths.py     which paths a trainer's call names, and the call under other paths; pure
    depot.py     the actor beside the home that hands out its files and lays what comes back
    mirror.py    the trainer's edge: the part of a home that its calls name, on a node that does not see it

On a node that sees the home nothing of this happens after the first look: paths are opened as they are.
"""
