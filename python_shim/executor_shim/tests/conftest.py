import pytest

from .support import Runs


@pytest.fixture(params=["forkserver", "spawn"])
def runs(request, tmp_path):
    """Both ways a run is born."""
    return Runs(tmp_path, request.param)


@pytest.fixture
def forked(tmp_path):
    """For what cannot differ between the two ways."""
    return Runs(tmp_path, "forkserver")
