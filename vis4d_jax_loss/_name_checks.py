"""The wording of every error about names: of terms, keys, arguments and results."""

import difflib
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vis4d_jax_loss._checks import fail, is_real


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "nothing"


def there_is(name: str, names: Collection[str]) -> str:
    """What there is, after the name that was probably meant."""
    nearest = difflib.get_close_matches(str(name), map(str, names), n=1, cutoff=0.5)
    hint = f'Did you mean "{nearest[0]}"? ' if nearest else ""
    return f"{hint}There is {_quoted(names)}."


def kind_of(value: Any) -> str:
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
        fail(TypeError, function, "a path must be a string", kind_of(path), remedy)
    if path and "" in path.split("."):
        fail(ValueError, function, "a path must not have empty parts", f'"{path}"', "")


def check_pairs(pairs: Any) -> list[tuple[Any, Any]]:
    rule, remedy = "terms must have names", 'Write LossModule({"box": LossTerm(...), ...}).'
    if not isinstance(pairs, Iterable):
        fail(TypeError, "LossModule", rule, kind_of(pairs), remedy)
    pairs = list(pairs)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            fail(TypeError, "LossModule", rule, kind_of(pair), remedy)
    if not pairs:
        fail(ValueError, "LossModule", "there must be at least one term", "none", "")
    return pairs


def check_terms(pairs: Sequence[tuple[str, Any]], kind: type) -> None:
    names = [name for name, _ in pairs]
    for name, term in pairs:
        if not isinstance(name, str) or name in ("", "loss"):
            rule = 'a term needs a name, other than "loss", which is the total'
            fail(ValueError, "LossModule", rule, repr(name), "")
        if names.count(name) > 1:
            rule = "each term must have a name of its own"
            got = f'"{name}" {names.count(name)} times'
            fail(ValueError, "LossModule", rule, got, f"The names are {_quoted(names)}.")
        if not isinstance(term, kind):
            rule, remedy = f'the term "{name}" must be a LossTerm or a LossModule', ""
            if callable(term):
                remedy = "Wrap it: LossTerm(loss, inputs={...}) says what to call it with."
            if isinstance(term, Mapping):
                remedy = "Wrap it: LossModule({...})."
            fail(TypeError, "LossModule", rule, kind_of(term), remedy)


def check_loss(loss: Any) -> None:
    if not callable(loss):
        fail(TypeError, "LossTerm", "loss must be callable", kind_of(loss), "")
    if isinstance(loss, type) and any("__call__" in vars(base) for base in loss.__mro__):
        rule, remedy = "loss must be an instance", f"Write {loss.__name__}(...)."
        fail(TypeError, "LossTerm", rule, f"the class {loss.__name__}", remedy)


def check_inputs(inputs: Any, kind: type) -> None:
    remedy = 'Write inputs={"pred": pred_key("boxes"), "target": data_key("boxes")}.'
    if not isinstance(inputs, Mapping):
        fail(TypeError, "LossTerm", "inputs must be a dict", kind_of(inputs), remedy)
    for argument, key in inputs.items():
        if not isinstance(key, kind):
            rule = f'the input "{argument}" must be a pred_key or a data_key'
            fail(TypeError, "LossTerm", rule, kind_of(key), remedy)


def check_arguments(
    loss: Any, inputs: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter] | None
) -> None:
    """Every input is an argument of the loss, and every argument it needs is an input."""
    if parameters is None:
        return
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
            fail(ValueError, "LossTerm", rule, f'"{argument}"', there_is(argument, named))
    for name, p in parameters.items():
        variadic = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.default is p.empty and not variadic and name not in (*inputs, "key", "where"):
            rule = f'inputs must say where {loss} gets its argument "{name}" from'
            remedy = f'Add "{name}": pred_key(...) or data_key(...).'
            if p.kind is p.POSITIONAL_ONLY:
                remedy = "It takes no name: wrap the loss in a lambda."
            fail(ValueError, "LossTerm", rule, _quoted(inputs), remedy)


def check_masks_leading_axes(loss: Any) -> None:
    """The masks of optax and JAX broadcast from the right: rows would be taken for columns."""
    function = getattr(loss, "func", loss)
    if str(getattr(function, "__module__", "")).partition(".")[0] in ("jax", "optax"):
        rule = "where of the call covers leading axes, which the where of this loss does not"
        remedy = "Wrap it in a lambda, with a mask of its own from the batch if it needs one."
        name = getattr(function, "__name__", type(function).__name__)
        fail(TypeError, "LossModule", rule, name, remedy)


def check_nothing_missing(free: Mapping[str, Any], arguments: Collection[str]) -> None:
    for name in ("key", "where"):
        if free.get(name) is inspect.Parameter.empty and name not in arguments:
            remedy = f"Call objective(outputs, batch, {name}={name}), or add it to inputs."
            fail(ValueError, "LossModule", f"the loss needs {name}", "none", remedy)


def check_part(name: Any) -> None:
    if str(name) == "":
        fail(ValueError, "LossModule", "each loss that a term returns must have a name", '""', "")


def check_excludes(
    exclude: Collection[str], entries: Collection[str], terms: Collection[str]
) -> None:
    """A name stands for itself and for what begins with it and a dot."""
    for name in exclude:
        if name not in terms and not any(f"{e}.".startswith(f"{name}.") for e in entries):
            rule = "exclude must name terms, or losses that they return"
            there = list(dict.fromkeys([*terms, *entries]))
            fail(ValueError, "LossModule", rule, f'"{name}"', there_is(name, there))


def check_new(name: str, entries: Collection[str]) -> None:
    if name in entries:
        rule = "each metric must have a name of its own"
        fail(ValueError, "LossModule", rule, f'"{name}" twice', "Rename one of the terms.")


def check_found(name: str, path: str, members: Collection[str], node: Any) -> None:
    if name not in members:
        there = there_is(name, members)
        if isinstance(node, jax.Array | np.ndarray):
            there = f"An array of shape {node.shape} has no parts."
        if node is None:
            there = "What should hold it is None."
        rule = f'inputs must name what is there, and "{name}" is not'
        fail(ValueError, "LossModule", rule, path, there)


def check_scalar(path: str, loss: Any) -> None:
    rule = "a loss must be a real scalar, or a dict or named tuple of scalars"
    if not isinstance(loss, jax.Array | np.ndarray | np.generic | int | float):
        got = kind_of(loss) + (f' under "{path}"' if path else "")
        remedy = ""
        if isinstance(loss, tuple | list):
            remedy = "Which of them is the loss? Wrap it in a lambda that says so."
        fail(TypeError, "LossModule", rule, got, remedy)
    if np.shape(loss):
        got = (path or "loss") + f" {np.shape(loss)}"
        remedy = "Give the loss a reducer, such as mean_loss."
        fail(ValueError, "LossModule", rule, got, remedy)
    if not is_real(loss):
        fail(TypeError, "LossModule", rule, f"{jnp.result_type(loss)}", "")
