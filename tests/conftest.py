"""Strict arithmetic for every test, and a fixture that several files use."""

import jax
import pytest

from vis4d_jax_loss import _box_pairs

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=["_gradient_by_corner", "_gradient_by_number"])
def each_form(request, monkeypatch):
    """Run a test with both forms of the derivatives of boxes; a platform uses only one of them."""
    form = getattr(_box_pairs, request.param)
    for name in ("_gradient_by_corner", "_gradient_by_number"):
        monkeypatch.setattr(_box_pairs, name, form)
