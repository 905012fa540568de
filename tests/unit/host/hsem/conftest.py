import pytest

from tests.unit.host.hsem.behaviour import browses, resolves
from tests.unit.host.hsem.scene import Scene

RESOLVER = "198.51.100.53"
_learned: list[Scene] = []


def town(**options) -> Scene:
    """A web server, two who use it (one of them, mallory, will turn), and bob, who does something else."""
    scene = Scene("mallory", "web", "alice", "bob", **options)
    scene.begin(browses("alice", "web", 10), browses("mallory", "web", 10), resolves("bob", RESOLVER, 2))
    if _learned:
        return scene.remember_as(_learned[0])
    _learned.append(scene.learn())
    return town(**options)


@pytest.fixture
def scene() -> Scene:
    return town()
