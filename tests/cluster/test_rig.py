"""Finding Ray: what a machine that lost its power leaves behind must not hold up the next start."""

from __future__ import annotations

import socket

import pytest

from cluster.ray_head import forget_dead_cluster


@pytest.fixture
def note(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)  # whatever else runs on this machine
    path = tmp_path / "ray" / "ray_current_cluster"
    path.parent.mkdir()
    return path


def test_the_note_of_a_cluster_that_is_gone_is_removed(note):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    note.write_text(f"127.0.0.1:{port}")
    forget_dead_cluster()
    assert not note.exists()


def test_the_note_of_a_cluster_that_answers_stays(note):
    with socket.create_server(("127.0.0.1", 0)) as server:
        note.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        forget_dead_cluster()
    assert note.exists()


def test_where_nothing_ran_there_is_nothing_to_forget(note):
    forget_dead_cluster()
    assert not note.exists()
