"""Luna beside somebody else's app on the same Ray Serve: neither its address nor its life is Luna's to change."""

from __future__ import annotations

import httpx
import pytest

from ledger.errors import LunaError
from tests.serving.builders import free_port, make_home

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def theirs(ray_head):
    """The port of a Ray Serve that somebody else started for an app of their own."""
    from ray import serve

    from cluster.ray_head import connect
    from serving import app

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Theirs:
        def __call__(self, _):
            return "theirs"

    connect()
    app.stop()  # what another test may have left
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Theirs.bind(), name="theirs", route_prefix="/theirs")
    yield port
    serve.shutdown()


def serves(port, path):
    return httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200


def test_luna_joins_at_their_address_only_and_stopping_it_leaves_their_app_alone(theirs, tmp_path):
    from cluster.client.coordinator import coordinator_for
    from cluster.server.start import start
    from serving import app

    home = make_home(tmp_path / "home", generations=1)

    def settings(port):
        home.settings_file.write_text(f'profile = "tiny"\n[serving]\nport = {port}\nengine = "transformers"\n')

    settings(free_port())
    with pytest.raises(LunaError, match=f"for other apps, at 127.0.0.1:{theirs}"):
        start(home, coordinator_for)
    settings(theirs)
    start(home, coordinator_for)
    assert serves(theirs, "/v1/models")
    assert serves(theirs, "/theirs")
    assert app.stop()
    assert app.running() is None
    assert not serves(theirs, "/v1/models")
    assert not serves(theirs, "/reward")
    assert serves(theirs, "/theirs")
    assert not app.stop(), "nothing of Luna's is left to stop"
    assert serves(theirs, "/theirs")
