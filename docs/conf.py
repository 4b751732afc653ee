"""Build the site: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

import doctest
import os
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

import vis4d_jax_loss

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import costs  # noqa: E402
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
    "sphinx-mathjax-offline",  # formulas are shown without internet access
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "sphinx_book_theme"
html_title = "vis4d_jax_loss"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_js_files = ["search.js"]
html_use_index = html_domain_indices = False  # the API reference lists every name
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "navbar_persistent": []}
html_sidebars = {
    "**": ["navbar-logo.html", "version.html", "search-button-field.html", "sbt-sidebar-nav.html"]
}
version = release = vis4d_jax_loss.__version__
repository = os.environ.get("DOCS_REPOSITORY", "")  # set by .github/workflows/docs.yml
html_context = {"repository": repository}
if site := os.environ.get("DOCS_URL"):  # where the sites of all versions are
    html_baseurl = f"{site}/{version}/"
    html_sidebars["**"].insert(2, "version-switcher.html")
    html_theme_options |= {
        "switcher": {"json_url": f"{site}/versions.json", "version_match": version},
        "check_switcher": False,  # this version is not there yet
    }
if repository:
    html_theme_options |= {
        "path_to_docs": "docs",
        "repository_branch": f"v{version}",
        "repository_url": repository,
        "use_issues_button": True,
        "use_repository_button": True,
    }
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath", "substitution"]
myst_substitutions = directives.counts()
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown with their stored outputs

nitpicky = True
nitpick_ignore_regex = [("py:(class|exc|obj)", r"(?!vis4d_jax_loss).*")]  # no links to other sites
autodoc_typehints = "none"  # the text gives shapes; short signatures fit a phone
autodoc_preserve_defaults = True
autodoc_default_options = {"special-members": "__call__"}  # how a module is called
autosummary_generate = False
napoleon_use_rtype = False
add_module_names = False


def generate(app) -> None:
    """Draw the pictures of the gallery and copy the notebooks into the docs folder."""
    plots.draw(HERE / "gallery" / "pictures")
    shutil.rmtree(HERE / "notebooks", ignore_errors=True)
    shutil.copytree(HERE.parent / "examples", HERE / "notebooks", ignore=_all_but_notebooks)


def _all_but_notebooks(folder, names) -> list[str]:
    return [name for name in names if not (name[0].isdigit() and name.endswith(".ipynb"))]


def check_every_public_name(app, env) -> None:
    """Warn about public names that no page documents; ``-W`` makes this an error."""
    entries = {name for name, *_ in env.get_domain("py").get_objects()}
    reference = "".join(page.read_text() for page in (HERE / "api").glob("*.md"))
    for name in vis4d_jax_loss.__all__:
        if f"vis4d_jax_loss.{name}" not in entries:
            logging.getLogger(__name__).warning("%s is public but has no entry on any page", name)
        if not re.search(rf"^(\.\. \w+:: )?{name}$", reference, re.MULTILINE):
            logging.getLogger(__name__).warning("%s is public but on no page of docs/api", name)


def run_get_started(app, docname, source) -> None:
    """Warn if the code that every newcomer copies does not run; ``-W`` makes this an error."""
    if docname == "get_started":
        results = doctest.testfile(str(HERE / "get_started.md"), module_relative=False)
        if results.failed:
            logging.getLogger(__name__).warning("%d examples of get_started failed", results.failed)


def link_pages(app, docname, source) -> None:
    """Replace links to files outside this folder by links to their pages."""
    source[0] = source[0].replace("(../benchmarks/README.md)", "(benchmarks.md)")


def trim_examples(app, doctree) -> None:
    """Drop the blank line after the last output of a doctest."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():
            block.rawsource = block.rawsource.rstrip()
            block[:] = [nodes.Text(block.rawsource)]


def write_every_page(app, env) -> set[str]:
    """Write all pages again; Sphinx forgets the search words of pages that it does not write."""
    return env.found_docs


def drop_formula(app, what, name, obj, options, lines) -> None:
    """Drop the formula from a docstring, where the page shows it above by ``{formula}``."""
    page = (HERE / f"{app.env.docname}.md").read_text()
    if f"{{formula}} {name.rpartition('.')[2]}\n" in page:
        start = next(i for i, line in enumerate(lines) if line.startswith(".. math::"))
        end = next(i for i in range(start + 1, len(lines)) if re.match(r"\S", lines[i]))
        goes_on = lines[end][0].islower()  # the sentence, e.g. "with the areas ..."
        lines[start:end] = ["The formula is at the top of this page" + (", " if goes_on else ".")]
        if not goes_on:
            lines.insert(start + 1, "")


def name_reducers(app, what, name, obj, options, signature, returned):
    """Show ``reducer=mean_loss`` in the signature of a module, not ``<function mean_loss>``."""
    if signature is None:  # of a type
        return None
    return directives.short_defaults(signature), returned


def setup(app) -> None:
    app.add_directive("formula", directives.Formula)
    app.add_directive("source", directives.Source)
    app.add_directive("calls", directives.Calls)
    app.add_directive("cost", costs.Cost)
    app.add_directive("losses", directives.Losses)
    app.add_post_transform(directives.ColumnLabels)
    app.add_post_transform(directives.BreakNames)
    app.connect("source-read", link_pages)
    app.connect("source-read", run_get_started)
    app.connect("doctree-read", trim_examples)
    app.connect("autodoc-process-docstring", drop_formula)
    app.connect("autodoc-process-signature", name_reducers)
    app.connect("builder-inited", generate)
    app.connect("env-check-consistency", check_every_public_name)
    app.connect("env-updated", write_every_page)
