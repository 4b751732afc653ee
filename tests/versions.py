"""Skip what older releases of JAX and Flax do not support."""

import functools
import importlib.metadata

import pytest


def needs(package, version, reason):
    """Skip a test in releases of a package before this one, with the reason."""
    installed = importlib.metadata.version(package)
    older = _numbers(installed) < _numbers(version)
    return pytest.mark.skipif(older, reason=f"needs {package} {version}: {reason}")


def _numbers(version):
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


needs_jax, needs_flax = (functools.partial(needs, package) for package in ("jax", "flax"))
