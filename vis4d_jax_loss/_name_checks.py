"""The wording of every error about names: of terms, keys, arguments, weights."""

import difflib
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def _fail(kind: type[Exception], function: str, rule: str, got: str, remedy: str) -> NoReturn:
    raise kind(f"{function}: {rule}, got {got}. {remedy}".rstrip())


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "nothing"


def _there_is(name: str, names: Collection[str]) -> str:
    """What there is, after the name that was probably meant."""
    nearest = difflib.get_close_matches(str(name), map(str, names), n=1, cutoff=0.5)
    hint = f'Did you mean "{nearest[0]}"? ' if nearest else ""
    return f"{hint}There is {_quoted(names)}."


def _of(value: Any) -> str:
    return f"{type(value).__name__} {value!r}" if isinstance(value, str) else type(value).__name__


@contextmanager
def within(term: str) -> Iterator[None]:
    """Say in which term an error came up, whoever raised it."""
    try:
        yield
    except Exception as error:
        error.add_note(f'This came up in the term "{term}" of a LossModule.')
        raise


def check_path(function: str, path: Any) -> None:
    if not isinstance(path, str):
        remedy = 'Write it as in "boxes.0".'
        _fail(TypeError, function, "a path must be a string", _of(path), remedy)
    if path and "" in path.split("."):
        _fail(ValueError, function, "a path must not have empty parts", f'"{path}"', "")


def check_pairs(pairs: Any) -> list[tuple[Any, Any]]:
    rule, remedy = "terms must have names", 'Write LossModule({"box": LossTerm(...), ...}).'
    if not isinstance(pairs, Iterable):
        _fail(TypeError, "LossModule", rule, _of(pairs), remedy)
    pairs = list(pairs)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            _fail(TypeError, "LossModule", rule, _of(pair), remedy)
    if not pairs:
        _fail(ValueError, "LossModule", "there must be at least one term", "none", "")
    return pairs


def check_terms(pairs: Sequence[tuple[str, Any]], kind: type) -> None:
    names = [name for name, _ in pairs]
    for name, term in pairs:
        if not isinstance(name, str) or name in ("", "loss"):
            rule = 'a term needs a name, other than "loss", which is the total'
            _fail(ValueError, "LossModule", rule, repr(name), "")
        if names.count(name) > 1:
            rule = "each term must have a name of its own"
            got = f'"{name}" {names.count(name)} times'
            _fail(ValueError, "LossModule", rule, got, f"The names are {_quoted(names)}.")
        if not isinstance(term, kind):
            rule, remedy = f'the term "{name}" must be a LossTerm or a LossModule', ""
            if callable(term):
                remedy = "Wrap it: LossTerm(loss, inputs={...}) says what to call it with."
            if isinstance(term, Mapping):
                remedy = "Wrap it: LossModule({...})."
            _fail(TypeError, "LossModule", rule, _of(term), remedy)


def check_loss(loss: Any) -> None:
    if not callable(loss):
        _fail(TypeError, "LossTerm", "loss must be callable", _of(loss), "")
    if isinstance(loss, type) and any("__call__" in vars(base) for base in loss.__mro__):
        rule, remedy = "loss must be an instance", f"Write {loss.__name__}(...)."
        _fail(TypeError, "LossTerm", rule, f"the class {loss.__name__}", remedy)


def check_inputs(inputs: Any, kind: type) -> None:
    remedy = 'Write inputs={"pred": pred_key("boxes"), "target": data_key("boxes")}.'
    if not isinstance(inputs, Mapping):
        _fail(TypeError, "LossTerm", "inputs must be a dict", _of(inputs), remedy)
    for argument, key in inputs.items():
        if not isinstance(key, kind):
            rule = f'the input "{argument}" must be a pred_key or a data_key'
            _fail(TypeError, "LossTerm", rule, _of(key), remedy)


def check_arguments(
    loss: Any, inputs: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Every input is an argument of the loss, and every argument it needs is an input."""
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    loss = getattr(loss, "__name__", type(loss).__name__)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for argument in inputs:
        if argument not in named and not anything:
            rule = f"inputs must name arguments of {loss}"
            _fail(ValueError, "LossTerm", rule, f'"{argument}"', _there_is(argument, named))
    for name, p in parameters.items():
        variadic = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.default is p.empty and not variadic and name not in (*inputs, "key", "where"):
            rule = f'inputs must say where {loss} gets its argument "{name}" from'
            remedy = f'Add "{name}": pred_key(...) or data_key(...).'
            if p.kind is p.POSITIONAL_ONLY:
                remedy = "It takes no name: wrap the loss in a lambda."
            _fail(ValueError, "LossTerm", rule, _quoted(inputs), remedy)


def check_weight(weight: Any, key: type, nested: bool) -> None:
    """Weights are numbers, scalar arrays or schedules, or a dict of them."""
    if not isinstance(weight, Mapping):
        _check_one_weight(weight)
        return
    if any(isinstance(part, key) for part in weight.values()):
        remedy = "Keys belong in inputs: LossTerm(loss, inputs={...})."
        _fail(TypeError, "LossTerm", "weight must not be a dict of keys", "a key", remedy)
    if nested:
        rule = "the weight of a LossModule must be one for all its terms"
        remedy = "Its own terms have weights of their own."
        _fail(TypeError, "LossTerm", rule, _of(weight), remedy)
    for name, part in weight.items():
        if isinstance(part, Mapping):
            rule = "weights by key must not be nested"
            inner = next(iter(part), "...")
            remedy = f'Write the whole path: {{"{name}.{inner}": 2.0}}.'
            _fail(TypeError, "LossTerm", rule, f'a dict under "{name}"', remedy)
        _check_one_weight(part)


def _check_one_weight(weight: Any) -> None:
    if isinstance(weight, nnx.Variable):  # callable, but no schedule
        check_scalar_weight(weight, "Pass its value, weight[...], to one made inside the step.")
    elif not callable(weight):
        check_scalar_weight(weight)


def check_scalar_weight(weight: Any, remedy: str = "") -> None:
    kinds = jax.Array | np.ndarray | np.number | int | float
    if not isinstance(weight, kinds) or _no_number(weight):
        rule = "a weight must be a real number, a scalar array, a schedule, or a dict of them"
        _fail(TypeError, "LossTerm", rule, _of(weight), remedy)
    if np.shape(weight):
        remedy = "Weights of single elements belong in SumWeightedLoss."
        rule = "the weight of a term must be a scalar"
        _fail(ValueError, "LossTerm", rule, f"weight {np.shape(weight)}", remedy)


def _no_number(x: Any) -> bool:
    """Whether it is boolean or complex."""
    dtype = jnp.result_type(x)
    return not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))


def check_hashable_weight(traced: bool) -> None:
    if traced:
        rule = "an objective whose weights are arrays has no hash"
        remedy = "It is an argument of the step, not a static one: jit a function that takes it."
        _fail(TypeError, "LossTerm", rule, "an array", remedy)


def check_masks_leading_axes(loss: Any) -> None:
    """The masks of optax and JAX broadcast from the right: rows would be taken for columns."""
    function = getattr(loss, "func", loss)
    if str(getattr(function, "__module__", "")).partition(".")[0] in ("jax", "optax"):
        rule = "where of the call covers leading axes, which the where of this loss does not"
        remedy = "Wrap it in a lambda, with a mask of its own from the batch if it needs one."
        name = getattr(function, "__name__", type(function).__name__)
        _fail(TypeError, "LossModule", rule, name, remedy)


def check_nothing_missing(free: Mapping[str, Any], arguments: Collection[str]) -> None:
    for name in ("key", "where"):
        if free.get(name) is inspect.Parameter.empty and name not in arguments:
            remedy = f"Call objective(outputs, batch, {name}={name}), or add it to inputs."
            _fail(ValueError, "LossModule", f"the loss needs {name}", "none", remedy)


def check_part(name: Any) -> None:
    if str(name) == "":
        _fail(ValueError, "LossModule", "each loss that a term returns must have a name", '""', "")


def check_step(step: Any) -> None:
    if step is None:
        remedy = "Call objective(outputs, batch, step=step)."
        _fail(ValueError, "LossModule", "a weight that is a schedule needs step", "None", remedy)


def check_weights(weights: Mapping[str, Any], entries: Collection[str]) -> None:
    for key in weights:
        if key not in entries:
            rule = "weights by key must name losses that the term returns"
            remedy = _there_is(key, entries)
            if "" in entries:
                remedy = "It returns one loss without a key: give it one weight."
            _fail(ValueError, "LossTerm", rule, f'"{key}"', remedy)


def check_excludes(
    exclude: Collection[str], entries: Collection[str], terms: Collection[str]
) -> None:
    """A name stands for itself and for what begins with it and a dot."""
    for name in exclude:
        if name not in terms and not any(f"{e}.".startswith(f"{name}.") for e in entries):
            rule = "exclude must name terms, or losses that they return"
            there = list(dict.fromkeys([*terms, *entries]))
            _fail(ValueError, "LossModule", rule, f'"{name}"', _there_is(name, there))


def check_new(name: str, entries: Collection[str]) -> None:
    if name in entries:
        rule = "each metric must have a name of its own"
        _fail(ValueError, "LossModule", rule, f'"{name}" twice', "Rename one of the terms.")


def check_found(name: str, path: str, members: Collection[str], node: Any) -> None:
    if name not in members:
        there = _there_is(name, members)
        if isinstance(node, jax.Array | np.ndarray):
            there = f"An array of shape {node.shape} has no parts."
        if node is None:
            there = "What should hold it is None."
        rule = f'inputs must name what is there, and "{name}" is not'
        _fail(ValueError, "LossModule", rule, path, there)


def check_scalar(path: str, loss: Any) -> None:
    rule = "a loss must be a real scalar, or a dict or named tuple of scalars"
    if not isinstance(loss, jax.Array | np.ndarray | np.generic | int | float):
        got = _of(loss) + (f' under "{path}"' if path else "")
        remedy = ""
        if isinstance(loss, tuple | list):
            remedy = "Which of them is the loss? Wrap it in a lambda that says so."
        _fail(TypeError, "LossModule", rule, got, remedy)
    if np.shape(loss):
        got = (path or "loss") + f" {np.shape(loss)}"
        remedy = "Give the loss a reducer, such as mean_loss."
        _fail(ValueError, "LossModule", rule, got, remedy)
    if _no_number(loss):
        _fail(TypeError, "LossModule", rule, f"{jnp.result_type(loss)}", "")
