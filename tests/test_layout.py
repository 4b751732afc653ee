"""The architecture: which file may import which, how long files are, and their tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vis4d_jax_loss"
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

# These build on other files that losses share.
ABOVE = [
    "losses.__init__",
    *("losses._focal", "losses._labelled", "losses._weighted_log_prob", "losses._soft_targets"),
]

# From the ground up. A file imports only from lower floors.
FLOORS = [
    ["_numerics", "_checks", "_expect"],
    ["_value_checks", "_dataclass", "_options", "_mesh_axis", "_box_pairs", "_ranking"],
    ["_module", "_largest", "_kept_count"],
    ["reducer"],
    ["weighted_reducer", "hard_mean"],
    ["_reduce_loss"],
    ["base", "box", "mining"],
    [name for name in FILES if name.startswith("losses._") and name not in ABOVE],
    ["losses._focal", "losses._labelled", "losses._weighted_log_prob"],
    ["losses._soft_targets"],
    [name for name in FILES if name.startswith("losses.") and "._" not in name],
    [name for name in FILES if name.startswith("heads._") and name != "heads.__init__"],
    [name for name in FILES if name.startswith("heads.") and "._" not in name],
    ["composition.errors"],
    ["composition.paths"],
    ["composition.arguments", "composition.weights"],
    ["composition.term"],
    ["composition.objective"],
    ["__init__"],
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
EMPTY = ["losses.__init__", "heads.__init__", "composition.__init__"]  # a docstring alone

# A loss whose formula contains that of another loss.
USES_THE_FORMULA_OF = {
    ("losses.rotation_loss", "losses.smooth_l1_loss"),
    ("losses.embedding_distance", "losses.common"),
    ("losses.seg_cross_entropy_loss", "losses.cross_entropy"),
    ("losses.multi_level_seg_loss", "losses.seg_cross_entropy_loss"),
    ("heads.rpn", "heads.dense_anchor"),
    ("heads.retinanet", "heads.dense_anchor"),
}


def imports_of(name):
    """The files of the package that a file imports."""
    imported = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from package import x` imports the file x, or a name of the package.
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [p for p in paths if p.removeprefix("vis4d_jax_loss.") in FILES]
            imported |= set(inside) if len(inside) == len(paths) else {node.module}
    parts = {module.partition(".") for module in imported}
    return {path or "__init__" for package, _, path in parts if package == "vis4d_jax_loss"}


ARROWS = {(name, other) for name in FILES for other in imports_of(name)}


def test_every_file_has_a_floor():
    assert sorted([*FLOOR_OF, *EMPTY]) == sorted(FILES)


def test_imports_are_found():
    assert ("losses.iou_loss", "box") in ARROWS
    assert ("_value_checks", "_expect") in ARROWS
    assert ("losses.iou_loss", "losses._inputs") in ARROWS
    assert ("losses._inputs", "_value_checks") in ARROWS
    assert ("composition.paths", "composition.errors") in ARROWS
    assert ("__init__", "composition.objective") in ARROWS


@pytest.mark.parametrize("name", FLOOR_OF)
def test_a_file_imports_only_from_lower_floors(name):
    upward = {
        other
        for other in imports_of(name)
        if FLOOR_OF[other] >= FLOOR_OF[name] and (name, other) not in USES_THE_FORMULA_OF
    }
    assert upward == set()


def test_each_formula_that_a_loss_may_use_is_used():
    assert USES_THE_FORMULA_OF <= ARROWS


def test_heads_and_compositions_do_not_know_each_other():
    apart = {("heads", "composition"), ("composition", "heads")}
    folders = {(name.partition(".")[0], other.partition(".")[0]) for name, other in ARROWS}
    assert ("heads", "losses") in folders
    assert not apart & folders


def test_imports_form_no_cycle():
    remaining = dict.fromkeys(FILES, ())
    remaining |= {name: imports_of(name) for name in FILES}
    while remaining:
        free = [name for name, imported in remaining.items() if not set(imported) & set(remaining)]
        assert free, f"a cycle among {sorted(remaining)}"
        for name in free:
            del remaining[name]


@pytest.mark.parametrize("name", EMPTY)
def test_the_init_files_of_folders_contain_a_docstring_alone(name):
    (statement,) = TREES[name].body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value.value, str)


@pytest.mark.parametrize("name", FILES)
def test_files_are_short(name):
    assert len(FILES[name].read_text().splitlines()) <= 250


def test_no_two_checks_have_the_same_name():
    checks = [
        node.name.removeprefix("_")
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.removeprefix("_").startswith("check_")
        if node.name not in ("_check_options", "_check_arguments", "_check_reducer")  # overridden
    ]
    assert "check_mask" in checks
    assert sorted(checks) == sorted(set(checks))


@pytest.mark.parametrize("name", sorted(set(FLOOR_OF) - {"__init__"}))
def test_each_file_has_a_file_of_tests(name):
    module = name.rpartition(".")[2].removeprefix("_")
    assert (ROOT / "tests" / f"test_{module}.py").is_file()
