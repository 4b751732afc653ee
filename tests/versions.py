"""Skip what older releases of JAX do not support."""

import jax
import pytest


def needs_jax(version, reason):
    """Skip a test in releases of JAX before this one, with the reason."""
    older = jax.__version_info__ < tuple(map(int, version.split(".")))
    return pytest.mark.skipif(older, reason=f"needs JAX {version}: {reason}")
