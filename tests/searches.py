"""Run mining with the search of any platform: all of them work on a CPU."""

import contextlib

import jax
import pytest

from vis4d_jax_loss import _largest

PLATFORMS = sorted(_largest._SEARCHES)

#: As many counts as devices send to each other at once, in the search of a GPU.
MOST_COUNTS = 32


@contextlib.contextmanager
def search_of(platform):
    """Use the search of one platform on every platform."""
    with pytest.MonkeyPatch.context() as patch:
        search = _largest._SEARCHES[platform]
        patch.setattr(_largest, "_SEARCHES", dict.fromkeys(PLATFORMS, search))
        jax.clear_caches()  # of programs with another search
        yield
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True, params=["cpu", "default"])
def search(request):
    """Run all tests of the file that imports this with the searches of a CPU and of a GPU."""
    with search_of(request.param):
        yield request.param
