"""Build the site: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

import vis4d_jax_loss

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import directives  # noqa: E402
import plots  # noqa: E402

project = "vis4d_jax_loss"
author = "the authors of vis4d_jax_loss"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # formulas without a network
]
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "vis4d_jax_loss"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_use_index = html_domain_indices = False  # the API reference lists every name
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "navbar_persistent": []}
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # shown as they are stored

nitpicky = True
nitpick_ignore_regex = [("py:(class|exc|obj)", r"(?!vis4d_jax_loss).*")]  # no other site is asked
autodoc_typehints = "none"  # shapes and dtypes are in the text, and signatures fit a phone
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_use_rtype = False
add_module_names = False


def generate(app) -> None:
    """Draw the gallery's pictures, and fetch the notebooks in their reading order."""
    plots.draw(HERE / "gallery" / "pictures")
    shutil.rmtree(HERE / "notebooks", ignore_errors=True)
    shutil.copytree(HERE.parent / "examples", HERE / "notebooks", ignore=_all_but_notebooks)


def _all_but_notebooks(folder, names) -> list[str]:
    return [name for name in names if not (name[0].isdigit() and name.endswith(".ipynb"))]


def check_every_public_name(app, env) -> None:
    """A name that users can import and not look up is a warning, and so fails the build."""
    entries = {name for name, *_ in env.get_domain("py").get_objects()}
    for name in vis4d_jax_loss.__all__:
        if f"vis4d_jax_loss.{name}" not in entries:
            logging.getLogger(__name__).warning("%s is public and has no entry on any page", name)


def link_pages(app, docname, source) -> None:
    """Files outside of this folder are linked as on the repository; here they are pages."""
    source[0] = source[0].replace("(../benchmarks/README.md)", "(benchmarks.md)")


def trim_examples(app, doctree) -> None:
    """Drop the blank line that ends an expected output in a doctest."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():
            block.rawsource = block.rawsource.rstrip()
            block[:] = [nodes.Text(block.rawsource)]


def name_reducers(app, what, name, obj, options, signature, returned):
    """Write ``reducer=mean_loss`` in the signature of a module, not ``<function mean_loss>``."""
    return re.sub(r"<function (\w+)>", r"\1", signature or "").replace("(0, )", "(0,)"), returned


def setup(app) -> None:
    app.add_directive("formula", directives.Formula)
    app.add_directive("source", directives.Source)
    app.add_post_transform(directives.ColumnLabels)
    app.connect("source-read", link_pages)
    app.connect("doctree-read", trim_examples)
    app.connect("autodoc-process-signature", name_reducers)
    app.connect("builder-inited", generate)
    app.connect("env-check-consistency", check_every_public_name)
