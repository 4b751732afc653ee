"""Every example in the documentation runs, and every public name has one."""

import doctest
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import publish
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from versions import needs_flax, needs_jax

import vis4d_jax_loss

ROOT = Path(__file__).parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(vis4d_jax_loss.__path__, "vis4d_jax_loss.")]
NAMES = {name: getattr(vis4d_jax_loss, name) for name in vis4d_jax_loss.__all__}
NAMES |= {"jax": jax, "jnp": jnp, "NamedSharding": NamedSharding, "P": P}
DOCS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "gallery").glob("*.md")])
PAGES = [page for page in [ROOT / "README.md", *DOCS] if ">>>" in page.read_text()]
# Types for annotations; the functions that use them explain them.
TYPES = {"IgnoreIndex", "AxisName", "InputPath", "IoUMode", "Schedule", "TermWeight"}
LOSSES = [name for name in vis4d_jax_loss.__all__ if re.search("[a-z](_loss|entropy)$", name)]
PAGES_OF_SEVERAL = {
    "diou_loss": "giou_loss",
    "ciou_loss": "giou_loss",
    "rpn_loss": "dense_anchor_head_loss",
    "retinanet_head_loss": "dense_anchor_head_loss",
}
SHOWN = [
    source for page in DOCS for source in re.findall(r"{source} (\S+)::(\S+)", page.read_text())
]


NEEDS = {
    "checkify": needs_flax("0.12", "nnx.merge(..., copy=True)"),
    "many_devices": needs_jax("0.7.2", "jax.set_mesh"),
    "mixed_precision": needs_jax("0.8", "jax.enable_x64"),
}


def page_with_its_needs(page):
    trains = "nnx.Optimizer(" in page.read_text()
    default = needs_flax("0.11", "nnx.Optimizer.update(model, gradient)") if trains else ()
    return pytest.param(page, id=page.stem, marks=NEEDS.get(page.stem, default))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name), extraglobs=NAMES).failed == 0


@pytest.mark.parametrize("page", [page_with_its_needs(page) for page in PAGES])
def test_the_examples_of_a_page_run(page):
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"identity_loss", "mean_loss", "sum_loss"}))
def test_every_loss_has_a_gallery_page(name):
    page_name = PAGES_OF_SEVERAL.get(name, name)
    page = (ROOT / "docs" / "gallery" / f"{page_name}.md").read_text()
    for part in [
        f"pictures/{page_name}.png",
        ":alt: ",
        ">>>",
        "## Traps",
        f"autofunction:: {name}",
    ]:
        assert part in page
    assert f"{{formula}} {page_name}" in page or "$$" in page


@pytest.mark.parametrize("page", ["which_loss", "conventions", "gallery/index"])
def test_every_loss_is_in_the_overview(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    names = set(LOSSES) - {"identity_loss", "mean_loss", "sum_loss"}
    if page == "gallery/index":
        names = {PAGES_OF_SEVERAL.get(name, name) for name in names}
    assert sorted(name for name in names if name not in text) == []


def test_the_conventions_give_the_order_of_arguments():
    text = (ROOT / "docs" / "conventions.md").read_text().partition("## What a loss returns")[0]
    rows = re.findall(r"^\| (`.+`) \| `(.+)` \| `?(\w+)`?.* \|$", text, re.MULTILINE)
    assert len(rows) > 5
    for losses, inputs, following in rows:
        for loss in re.findall(r"`(\w+)`", losses):
            names = list(inspect.signature(NAMES[loss]).parameters)
            expected = [*inputs.split(", "), *([following] if following != "none" else [])]
            assert names[: len(expected)] == expected, loss


@pytest.mark.parametrize(("path", "name"), SHOWN)
def test_every_function_that_a_page_shows_exists(path, name):
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(vis4d_jax_loss.__all__) - TYPES))
def test_every_public_name_shows_an_example(name):
    assert ">>>" in getattr(vis4d_jax_loss, name).__doc__


def test_every_public_name_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    named = set(vis4d_jax_loss.__all__) - TYPES - {"LossReducer"}
    named -= {name for name in named if name.endswith("Losses")}  # what heads return
    assert [name for name in sorted(named) if name not in readme] == []


def test_the_site_of_each_version_is_published_beside_the_others(tmp_path):
    site, folder = tmp_path / "site", tmp_path / "pages"
    (site / ".doctrees").mkdir(parents=True)
    for version in ("0.9.0", "0.10.0", "0.10.1rc1", "0.9.0"):
        (site / "index.html").write_text(f"{version}, built again")
        publish.publish(site, folder, version, "https://example.org/docs")
    entries = json.loads((folder / "versions.json").read_text())
    assert [entry["version"] for entry in entries] == ["0.10.0", "0.9.0", "0.10.1rc1"]
    assert [entry["preferred"] for entry in entries] == [True, False, False]
    assert entries[1]["url"] == "https://example.org/docs/0.9.0/"
    assert "./0.10.0/index.html" in (folder / "index.html").read_text()
    assert (folder / "0.9.0" / "index.html").read_text() == "0.9.0, built again"
    assert not (folder / "0.9.0" / ".doctrees").exists()
