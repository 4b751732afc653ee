"""Type checkers accept the package, the examples and a user's code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import user_code

import vis4d_jax_loss as vjl

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CHECKED = ["vis4d_jax_loss", "examples", "tests/user_code.py"]


def check(*command):
    """Run a checker of this environment, on this checkout."""
    folder = Path(sys.executable).parent
    paths = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = os.environ | paths
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def need(name):
    if shutil.which(name, path=Path(sys.executable).parent) is None:
        pytest.skip(f"{name} is not installed")


def test_the_users_code_runs_and_uses_every_public_name():
    user_code.run()
    text = Path(user_code.__file__).read_text()
    assert [name for name in vjl.__all__ if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("path", CHECKED)
def test_pyright_accepts(path):
    need("pyright")
    assert "0 errors" in check("pyright", "--pythonpath", sys.executable, path)


@pytest.mark.parametrize("path", CHECKED)
def test_mypy_accepts(path):
    need("mypy")
    # Some libraries, such as optax, come without types.
    assert "Success" in check("mypy", "--ignore-missing-imports", path)


def test_every_public_type_is_known():
    need("pyright")
    report = check("pyright", "--verifytypes", "vis4d_jax_loss", "--ignoreexternal")
    assert str(ROOT) in report
    assert "Type completeness score: 100%" in report
