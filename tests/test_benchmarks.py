"""The benchmarks compare the same computation, and their tables say what was measured."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import report
import results
from cases import CASES, HEADS
from rows import ROWS, implementations
from versions import needs_jax

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def test_every_loss_has_a_row():
    losses = {case.name for case in (*CASES, *HEADS)}
    assert losses - {row.function for row in ROWS} == {"multi_level_seg_loss"}  # of segmentation


def test_names_of_rows_differ():
    assert len({row.name for row in ROWS}) == len(ROWS)


@every_row
def test_sizes_grow(row):
    elements = [np.prod(size) for size in row.sizes]
    assert elements == sorted(elements)
    assert len(elements) == 3


@pytest.mark.slow
@needs_jax("0.10", "transposing the last two axes by .mT")
@every_row
def test_other_implementations_compute_the_same_loss(row):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(x.values(rng)) for x in row.inputs(*row.sizes[0])]
    with jax.numpy_rank_promotion("allow"):
        computed = {name: jax.jit(f)(*arrays) for name, f in implementations(row).items()}
    ours = computed.pop("ours")
    for other in computed.values():
        if not row.gradients:
            np.testing.assert_array_equal(other, ours)
            continue
        np.testing.assert_allclose(other[0], ours[0], rtol=1e-4)
        for gradient, expected in zip(*map(jax.tree.leaves, (other[1], ours[1])), strict=True):
            # Some derivatives differ at ties and kinks.
            atol = 2e-2 * abs(expected).max()
            np.testing.assert_allclose(gradient, expected, rtol=1e-2, atol=atol)


def test_half_precision_is_computed_in_float32_by_all():
    row = next(row for row in ROWS if row.name == "L1")
    pred = jnp.full(1000, 100, jnp.bfloat16)
    for function in implementations(row, jnp.bfloat16).values():
        value, gradient = jax.jit(function)(pred, pred * 0 + 0.5)
        assert value == pytest.approx(99.5, rel=1e-6)  # in bfloat16, the sum would be rounded
        assert value.dtype == jnp.float32
        assert gradient.dtype == jnp.bfloat16


# Rows that store more than their inputs, and how many times as much.
LARGE = {
    "dice": 1.1,
    "embedding distance, mined": 2.8,
    "hard_negative_mask": 2.4,
    "RetinaNet head, 80 classes": 1.9,  # the targets are labels, and the losses are dense
    "top_k_mask, k = 1500": 3,
    "top_k_mask, traced k": 3,
}


@needs_jax("0.10", "before it, XLA stores one loss per element to add them up")
@every_row
def test_value_and_gradient_store_less_than_the_inputs(row):
    specs = [x.spec() for x in row.inputs(*row.sizes[1])]
    memory = jax.jit(implementations(row)["ours"]).lower(*specs).compile().memory_analysis()
    inputs = sum(x.size * x.dtype.itemsize for x in specs)
    assert memory.temp_size_in_bytes <= 1.04 * LARGE.get(row.name, 1) * inputs


def measured(row, elements, ours, temp_bytes=0, **others):
    times = dict(ours=ours, **{"pass": 0.5}) | others
    columns = {
        name: dict(best=t, low=t, median=t, high=1.2 * t, samples=9) for name, t in times.items()
    }
    columns["ours"]["temp_bytes"] = temp_bytes
    shape = dict(size=[elements], elements=elements, bytes=12 * elements, input_bytes=8 * elements)
    return dict(row=row, family="boxes", dtype="float32", results=columns, **shape)


def test_the_best_alternative_is_the_fastest_other_implementation():
    result = measured("a", 10, 2.0, plain=4.0, optax=3.0)
    assert results.best_alternative(result) == ("optax", 1.5)
    assert not results.is_slower(result)
    assert results.is_slower(measured("a", 10, 2.0, plain=1.8))
    assert not results.is_slower(measured("a", 10, 2.0, plain=1.95))  # noise


def test_growth_is_measured_from_a_size_that_fits_the_cache():
    rows = [
        measured("grows", 10, 1.0, plain=1.0),  # 0.1 s per element, overhead of the call
        measured("grows", 100, 1.0, plain=1.0),  # 0.01
        measured("grows", 1000, 50.0, plain=1.0),  # 0.05
        measured("steady", 100, 1.0, plain=1.0),
        measured("steady", 1000, 20.0, plain=1.0),
    ]
    assert results.grows(rows, cache_bytes=2 * 1200) == {"grows": pytest.approx(5)}


def test_the_text_shows_slower_rows_first():
    rows = [measured("fast", 10, 1.0, plain=2.0), measured("slow", 10, 1.0, plain=0.5)]
    lines = results.text(rows, cache_bytes=1000).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["--", "slow", "--", "fast"]


def test_the_report_replaces_only_what_is_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- boxes: begin -->\nold\n<!-- boxes: end -->\nafter\n")
    report.insert(page, "boxes", "new")
    report.insert(page, "boxes", "new")
    assert page.read_text() == (
        "before\n<!-- boxes: begin -->\n\nnew\n\n<!-- boxes: end -->\nafter\n"
    )
    with pytest.raises(ValueError, match=r"page\.md has no marks for classes"):
        report.insert(page, "classes", "new")


def test_the_report_names_slower_rows_first(tmp_path):
    rows = [measured("fast", 10, 1.0, plain=2.0), measured("slow", 10, 1.0, plain=0.5)]
    (tmp_path / "cpu.json").write_text(json.dumps(dict(about={"cache_bytes": 9}, results=rows)))
    text = report.summary(report.load(tmp_path))
    assert "slow" in text
    assert "fast" not in text
