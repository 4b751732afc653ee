"""Compare the whole text of an error, so that a change of its wording is seen."""

from contextlib import contextmanager

import pytest


@contextmanager
def raises(kind, message):
    """Expect one error with exactly this text, and no second traceback above it."""
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert str(error) == message
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
