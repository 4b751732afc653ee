"""The account of compiled programs, on short programs whose cost is easy to compute by hand."""

import pytest
from hlo import UNKNOWN_TRIPS, Cost, account, array_bytes, largest_message, parse

ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""


def program(*lines, others=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule test\n{others}\nENTRY %main (x: f32[100]) -> f32[100] {{\n{body}\n}}\n"


X = "%x = f32[100]{0} parameter(0)"


@pytest.mark.parametrize(
    ("type_text", "size"),
    [
        ("f32[]", 4),
        ("f32[8,128]{1,0}", 4096),
        ("bf16[10]{0}", 20),
        ("pred[2,3]{1,0}", 6),
        ("f8e4m3fn[5]", 5),
        ("s4[3]{0}", 2),
        ("f32[0,4]", 0),
        ("(f32[2]{0}, /*index=1*/s64[3]{0})", 32),
        ("token[]", 0),
        ("f32[8,128]{1,0:T(8,128)S(1)}", 4096),
    ],
)
def test_bytes_of_types(type_text, size):
    assert array_bytes(type_text) == size


def test_arrays_on_the_chip_are_not_in_device_memory():
    text = "(f32[8,128]{1,0:T(8,128)S(1)}, f32[2]{0:T(128)}, f32[]{:T(128)S(6)})"
    assert array_bytes(text, on_chip=False) == 8


def test_a_kernel_reads_operands_and_writes_its_result():
    text = program(
        X,
        "%half = f32[] constant(0.5)",
        "ROOT %y = f32[100]{0} fusion(%x, %half), kind=kLoop, calls=%f",
        others="%f (p: f32[100]) -> f32[100] {\n  ROOT %p = f32[100]{0} parameter(0)\n}",
    )
    assert account(text) == Cost(kernels=1, bytes=400 + 4 + 400)


def test_what_takes_no_time_is_not_a_kernel():
    text = program(
        X,
        "%i = s32[100]{0} iota(), iota_dimension=0",
        "%t = (f32[100]{0}, s32[100]{0}) tuple(%x, %i)",
        "%y = f32[100]{0} get-tuple-element(%t), index=0",
        "ROOT %z = f32[10,10]{1,0} bitcast(%y)",
    )
    assert account(text) == Cost()


def test_a_type_may_contain_comments_and_parentheses():
    line = (
        "%y = (f32[8,128]{1,0:T(8,128)}, /*index=1*/f32[]{:T(128)}) fusion(%x), kind=kLoop, "
        'calls=%f, backend_config={"estimated_cycles":"2009"}'
    )
    [_, instruction] = parse(program(X, line))["ENTRY"]
    assert instruction.name == "y"
    assert instruction.opcode == "fusion"
    assert instruction.operands == ("x",)
    assert instruction.called("calls") == ["f"]


def test_cycles_are_added():
    text = program(
        X,
        '%y = f32[100]{0} add(%x, %x), backend_config={"estimated_cycles":"70"}',
        'ROOT %z = f32[100]{0} add(%y, %y), backend_config={"window":{"estimated_cycles":"30"}}',
    )
    assert account(text) == Cost(kernels=2, bytes=2 * 1200, cycles=100)


def test_an_asynchronous_copy_counts_once():
    text = program(
        X,
        "%s = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%x)",
        "ROOT %y = f32[100]{0:S(1)} copy-done(%s)",
    )
    assert account(text) == Cost(kernels=1, bytes=400)


LOOP = """
%body (t: (f32[100], s32[])) -> (f32[100], s32[]) {
  %t = (f32[100]{0}, s32[]) parameter(0)
  %v = f32[100]{0} get-tuple-element(%t), index=0
  %w = f32[100]{0} negate(%v)
  INNER
  %n = s32[] get-tuple-element(%t), index=1
  ROOT %r = (f32[100]{0}, s32[]) tuple(%w, %n)
}
%condition (t: (f32[100], s32[])) -> pred[] {
  %t = (f32[100]{0}, s32[]) parameter(0)
  %n = s32[] get-tuple-element(%t), index=1
  ROOT %less = pred[] compare(%n, %n), direction=LT
}
"""
NEGATE, COMPARE = Cost(kernels=1, bytes=800), Cost(kernels=1, bytes=4 + 4 + 1)
WHILE = "(f32[100]{0}, s32[]) while(%t), condition=%condition, body=%body"
KNOWN = ', backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0","step":"1"}}'


def test_a_loop_counts_once_per_trip():
    text = program(X, f"%y = {WHILE}{KNOWN}", others=LOOP.replace("  INNER\n", ""))
    assert account(text) == Cost(loops=(7,)) + (NEGATE + COMPARE).times(7)


def test_a_loop_of_unknown_length_is_named():
    text = program(X, f"%y = {WHILE}", others=LOOP.replace("  INNER\n", ""))
    assert account(text) == Cost(loops=(None,)) + (NEGATE + COMPARE).times(UNKNOWN_TRIPS)


def test_an_inner_loop_counts_once_per_trip_of_both():
    inner = LOOP.replace("  INNER\n", "").replace("%body", "%body2").replace("%cond", "%cond2")
    while2 = WHILE.replace("%body", "%body2").replace("%cond", "%cond2")
    outer = LOOP.replace("INNER", f"%inner = {while2}{KNOWN.replace('7', '3')}")
    cost = account(program(X, f"%y = {WHILE}{KNOWN}", others=inner + outer))
    assert cost == Cost(loops=(7, 3)) + (NEGATE + COMPARE).times(7 * (1 + 3))


BRANCHES = """
%cheap (p: f32[100]) -> f32[100] {
  ROOT %p = f32[100]{0} parameter(0)
}
%dear (p: f32[100]) -> f32[100] {
  %p = f32[100]{0} parameter(0)
  ROOT %q = f32[100]{0} negate(%p)
}
"""


@pytest.mark.parametrize(
    "branches",
    ["branch_computations={%cheap, %dear}", "true_computation=%dear, false_computation=%cheap"],
)
def test_of_a_conditional_the_dearer_branch_counts(branches):
    line = f"ROOT %y = f32[100]{{0}} conditional(%i, %x, %x), {branches}"
    assert account(program(X, line, others=BRANCHES)) == NEGATE


@pytest.mark.parametrize(
    "call", ["call(%x), to_apply=%dear", "async-start(%x), calls=%dear, async_execution_thread=a"]
)
def test_a_call_costs_what_it_calls(call):
    assert account(program(X, f"%y = f32[100]{{0}} {call}", others=BRANCHES)) == NEGATE


@pytest.mark.parametrize(
    "line",
    [
        "%y = f32[100]{0} sort(%x), dimensions={0}, to_apply=%less",
        '%y = (f32[5]{0}, s32[5]{0}) custom-call(%x), custom_call_target="TopK"',
        '%y = f32[100]{0} custom-call(%x), custom_call_target="__cub$DeviceRadixSort"',
        "%y = f32[100]{0} fusion(%x), kind=kCustom, calls=%sorted",
    ],
)
def test_sorts_are_counted(line):
    sorted_ = (
        "%sorted (p: f32[100]) -> f32[100] {\n  %p = f32[100]{0} parameter(0)\n"
        "  ROOT %s = f32[100]{0} sort(%p), dimensions={0}, to_apply=%less\n}"
    )
    cost = account(program(X, line, others=sorted_))
    assert (cost.kernels, cost.sorts) == (1, 1)


def test_collectives_send_their_operands():
    text = program(
        X,
        "%y = (f32[100]{0}, f32[100]{0:S(1)}) all-reduce(%x, %x), to_apply=%add",
        "%s = (f32[100]{0}, f32[800]{0}) all-gather-start(%x), dimensions={0}",
        "ROOT %z = f32[800]{0} all-gather-done(%s)",
        others=ADD,
    )
    cost = account(text)
    assert (cost.messages, cost.sent) == (2, 800 + 400)
    assert largest_message(text) == 800


def test_a_collective_inside_a_fusion_is_found():
    fused = (
        "%f (p: f32[100]) -> f32[100] {\n  %p = f32[100]{0} parameter(0)\n"
        "  ROOT %s = f32[100]{0} all-reduce(%p), to_apply=%add\n}"
    )
    line = "ROOT %y = f32[100]{0} fusion(%x), kind=kCustom, calls=%f"
    cost = account(program(X, line, others=ADD + fused))
    assert (cost.kernels, cost.messages, cost.sent) == (1, 1, 400)


def test_collectives_in_loops_count_once_per_trip():
    send = "%s = f32[100]{0} all-reduce(%w), to_apply=%add"
    text = program(X, f"%y = {WHILE}{KNOWN}", others=ADD + LOOP.replace("INNER", send))
    assert (account(text).messages, account(text).sent) == (7, 7 * 400)
    assert largest_message(text) == 400


def test_a_program_of_this_machine():
    """The text has the form that this version of JAX writes."""
    import jax
    import jax.numpy as jnp

    def double_three_times(x):
        return jax.lax.fori_loop(0, 3, lambda _, y: 2 * jnp.sort(y), x)

    cost = account(jax.jit(double_three_times).lower(jnp.ones(1000)).compile().as_text())
    assert cost.loops == (3,)
    assert cost.sorts == 3
    assert cost.bytes >= 3 * 2 * 8000
