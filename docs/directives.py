"""Extensions of Sphinx: formulas of docstrings, sources of functions, calls, tables for phones."""

import ast
import inspect
import json
import re
import textwrap
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

import vis4d_jax_loss

ROOT = Path(__file__).parents[1]


def counts() -> dict[str, int]:
    """Return the numbers that pages mention as ``{{ name }}``."""
    recorded = 0
    for folder in ("golden", "golden_wide"):
        manifest = json.loads((ROOT / "tests" / folder / "manifest.json").read_text())
        names = [case["fn"].partition(".")[0] for case in manifest["cases"]]
        recorded += sum(hasattr(vis4d_jax_loss, name) for name in names)
    intended = re.findall(
        r'^    "p\d+": ', (ROOT / "tests/test_golden.py").read_text(), re.MULTILINE
    )
    losses = [n for n in vis4d_jax_loss.__all__ if re.search("[a-z0-9](_loss|_entropy)$", n)]
    return dict(
        recorded=recorded - len(intended), losses=len(losses) - len(["identity", "mean", "sum"])
    )


class Formula(SphinxDirective):
    """``{formula} iou_loss``: show the formula in the docstring of that function."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (name,) = self.arguments
        doc = inspect.getdoc(getattr(vis4d_jax_loss, name)) or ""
        found = re.search(r"^\.\. math::(.*?)(?=^\S|\Z)", doc, re.DOTALL | re.MULTILINE)
        if found is None:
            raise self.error(f"The docstring of {name} contains no formula.")
        text = textwrap.dedent(found[1]).strip()
        return [nodes.math_block(text, text, label=None, number=None, nowrap=False)]


class Calls(SphinxDirective):
    """``{calls}`` with one name per line: the signature of each name, and for a class its call.

    The whole docstring is on another page, which each name links to.
    """

    has_content = True

    def run(self) -> list[nodes.Node]:
        lines = ["```{eval-rst}", ".. currentmodule:: vis4d_jax_loss"]
        for name in self.content:
            lines += ["", *entry(name, getattr(vis4d_jax_loss, name))]
        return self.parse_text_to_nodes("\n".join([*lines, "```"]))


def entry(name: str, value) -> list[str]:
    """Return the lines of reStructuredText that show how to call a public name."""
    if not inspect.isclass(value):
        return [f".. function:: {name}{signature(value)}", *_summary(name, value)]
    lines = [f".. class:: {name}{signature(value)}", *_summary(name, value)]
    if "__call__" in dir(value):
        call = signature(value.__call__).replace("(self, ", "(", 1)
        lines += ["", f"   .. method:: __call__{call}", "      :no-index:"]
    return lines


def _summary(name: str, value) -> list[str]:
    text = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
    return ["   :no-index:", "", f"   {text} :py:obj:`Options and example <vis4d_jax_loss.{name}>`"]


def signature(value) -> str:
    """Return the signature without types, and with ``mean_loss`` as functions are written."""
    found = inspect.signature(value)
    parameters = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    text = str(found.replace(parameters=parameters, return_annotation=found.empty))
    return short_defaults(text)


def short_defaults(text: str) -> str:
    return re.sub(r"<function (\w+)[^>]*>", r"\1", text).replace("(0, )", "(0,)")


class Losses(SphinxDirective):
    """``{losses}``: a table of all losses with pictures, made from the cards of the gallery."""

    def run(self) -> list[nodes.Node]:
        gallery = ROOT / "docs" / "gallery"
        self.env.note_dependency(str(gallery / "index.md"))
        lines = ["| | for | function | module |", "|---|---|---|---|"]
        for page, task, alt in cards((gallery / "index.md").read_text()):
            self.env.note_dependency(str(gallery / f"{page}.md"))
            reference = (gallery / f"{page}.md").read_text().partition("## Reference")[2]
            functions, modules = (
                ", ".join(f"`{name}`" for name in re.findall(rf"auto{kind}:: (\w+)", reference))
                for kind in ("function", "class")
            )
            picture = f"[![{alt}](gallery/pictures/{page}_small.png)](gallery/{page}.md)"
            task = f"[{task}](gallery/{page}.md)"
            lines.append(f"| {picture} | {task} | {functions} | {modules} |")
        return self.parse_text_to_nodes("\n".join(lines))


def cards(text: str) -> list[tuple[str, str, str]]:
    """Return page, task and description of the picture of each card of the gallery."""
    found = re.findall(r"grid-item-card} .*\n((?::.+\n)+)(.+)\n:::", text)
    return [
        (
            re.search(r":link: (\w+)", options)[1],
            task,
            re.search(r":img-alt: (.+)", options)[1],
        )
        for options, task in found
    ]


class Source(SphinxDirective):
    """``{source} tests/test_numerics.py::test_absolute``: show the source of a function, collapsed.

    A function that does not exist is an error: no page can name a guard or test that was removed.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path, name = self.arguments[0].split("::")
        self.env.note_dependency(str(ROOT / path))
        source = function_source((ROOT / path).read_text(), name)
        if source is None:
            raise self.error(f"{path} contains no function {name}.")
        what = "Test" if path.startswith("tests/") else "Guard"
        text = f":::{{dropdown}} {what}: `{name}` in `{path}`\n```python\n{source}\n```\n:::"
        return self.parse_text_to_nodes(text)


def function_source(module: str, name: str) -> str | None:
    """The source of a function with its derivative rule, or None if it does not exist."""
    lines, parts = module.splitlines(), []
    for node in ast.walk(ast.parse(module)):
        if not isinstance(node, ast.FunctionDef):
            continue
        decorators = [ast.unparse(d) for d in node.decorator_list]
        if node.name == name or f"{name}.defjvp" in decorators:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            while lines[first - 2].startswith("#"):
                first -= 1
            part = lines[first - 1 : node.end_lineno]
            if "Args:" in (ast.get_docstring(node) or ""):  # the reference shows it already
                doc = node.body[0]
                del part[doc.lineno - first : doc.end_lineno - first + 1]
            parts.append(textwrap.dedent("\n".join(part)))
    return "\n\n\n".join(parts) or None


class ColumnLabels(SphinxPostTransform):
    """Repeat the name of the column in each table cell, for the layout on phones (style.css)."""

    default_priority = 999

    def run(self, **kwargs) -> None:
        for head in self.document.findall(nodes.thead):
            names = [entry.astext() for entry in head.findall(nodes.entry)]
            for row in head.parent.findall(nodes.row):
                if row.parent is head:
                    continue
                for name, entry in zip(names, row.children, strict=True):
                    if name and entry.astext():
                        entry.insert(0, nodes.inline(name, name, classes=["column"]))


class BreakNames(SphinxPostTransform):
    """Let long names go on in the next line after ``_`` or a word."""

    default_priority = 998
    formats = ("html",)

    def run(self, **kwargs) -> None:
        literals = self.document.findall(nodes.literal)
        for name in [*literals, *self.document.findall(addnodes.desc_name)]:
            for text in list(name.findall(nodes.Text)):
                if len(text) < 20:
                    continue
                parts = re.split(r"(?<=[_./(,=])(?=\w)|(?<=[a-z])(?=[A-Z])", text)
                pieces = [(nodes.raw("", "<wbr>", format="html"), nodes.Text(p)) for p in parts]
                text.parent.replace(text, [node for pair in pieces for node in pair][1:])
