"""Every example that users read runs, and every public name has one."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import vis4d_jax_loss

ROOT = Path(__file__).parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(vis4d_jax_loss.__path__, "vis4d_jax_loss.")]
NAMES = {name: getattr(vis4d_jax_loss, name) for name in vis4d_jax_loss.__all__}
NAMES |= {"jax": jax, "jnp": jnp, "NamedSharding": NamedSharding, "P": P}
PAGES = [ROOT / "README.md", ROOT / "docs" / "many_devices.md"]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name), extraglobs=NAMES).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_run(page):
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", sorted(set(vis4d_jax_loss.__all__) - {"LossReducer"}))
def test_every_public_name_shows_an_example(name):
    assert ">>>" in getattr(vis4d_jax_loss, name).__doc__


def test_every_public_name_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [name for name in vis4d_jax_loss.__all__ if name not in readme] == ["LossReducer"]
