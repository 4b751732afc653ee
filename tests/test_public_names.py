"""What can be imported from the package: losses, types and the version."""

import tomllib
from pathlib import Path

import jax.numpy as jnp
import pytest

import vis4d_jax_loss as vjl

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
TYPES = ["AxisName", "InputPath", "IoUMode", "LossReducer", "Schedule", "TermWeight"]


@pytest.mark.parametrize("name", [*vjl.__all__, "__version__"])
def test_every_public_name_can_be_imported(name):
    assert getattr(vjl, name) is not None


@pytest.mark.parametrize("name", TYPES)
def test_the_types_of_arguments_are_public(name):
    assert name in vjl.__all__


def test_public_names_are_sorted_and_unique():
    assert vjl.__all__ == sorted(set(vjl.__all__), key=str)


def test_pred_key_and_data_key_create_input_paths():
    assert vjl.pred_key("boxes.0") == vjl.InputPath("outputs", "boxes.0")
    assert vjl.data_key("boxes") == vjl.InputPath("batch", "boxes")


def test_the_version_is_that_of_the_project():
    assert vjl.__version__ == PYPROJECT["project"]["version"]


def test_types_can_be_used_in_annotations():
    def schedule(step: int) -> vjl.TermWeight:
        return jnp.float32(step)

    def loss(mode: vjl.IoUMode, axis: vjl.AxisName | None, weight: vjl.Schedule) -> None: ...

    assert schedule(2) == 2
    assert loss.__annotations__["weight"] == vjl.Schedule
