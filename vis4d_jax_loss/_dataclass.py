"""Makes a class a frozen dataclass that may be decorated by ``dataclasses.dataclass`` again."""

import copy
import dataclasses
import weakref
from typing import Any

from vis4d_jax_loss._checks import fail

# What we have changed in a class by decorating it: the new value and the one before, by name.
_CHANGED: weakref.WeakKeyDictionary[type, dict[str, Any]] = weakref.WeakKeyDictionary()
# Classes that need another decorator before they have instances.
_INCOMPLETE: weakref.WeakSet[type] = weakref.WeakSet()
_ABSENT = object()


def make_dataclass(cls: type, kw_only: bool) -> None:
    """Decorate a class in place. How it is compared, hashed and shown is its own or inherited."""
    try:
        _decorate(cls, kw_only)
    except TypeError:  # An option without a default follows one with a default.
        undo_dataclass(cls, frozen=True)
        _decorate(cls, kw_only=True)
        _INCOMPLETE.add(cls)
    # Another decorator leaves a method alone only if it is in the class itself.
    for name in ("__repr__", "__eq__", "__hash__"):
        if vars(cls).get(name) is None:
            setattr(cls, name, getattr(super(cls, cls), name))


def _decorate(cls: type, kw_only: bool) -> None:
    # The decorator writes into the fields that it finds: keep copies.
    written = {k: _fresh(v) for k, v in vars(cls).items()}
    options = dict(frozen=True, repr=False, eq=False, init="__init__" not in written)
    try:
        dataclasses.dataclass(**options, kw_only=kw_only)(cls)
    finally:
        names = written | vars(cls)
        pairs = {k: (vars(cls).get(k, _ABSENT), written.get(k, _ABSENT)) for k in names}
        _CHANGED[cls] = {k: (new, old) for k, (new, old) in pairs.items() if new is not old}


def _fresh(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dataclasses.Field) else value


def undo_dataclass(cls: type, frozen: bool) -> None:
    """Give a class back as it was written, because another decorator is about to read it."""
    if not frozen:
        rule = "a loss is frozen, and a dataclass already"
        remedy = "Remove the decorator, or write @dataclass(frozen=True)."
        fail(TypeError, cls.__name__, rule, "@dataclass with frozen=False", remedy)
    _INCOMPLETE.discard(cls)
    for name, (new, old) in _CHANGED.pop(cls, {}).items():
        # Others may have replaced it, as cloudpickle does when it builds a class.
        if vars(cls).get(name, _ABSENT) is not new:
            continue
        if old is _ABSENT:
            delattr(cls, name)
        else:
            setattr(cls, name, old)


def check_complete(cls: type) -> None:
    """Raise if a class has an option without a default behind one with a default."""
    if cls in _INCOMPLETE:
        missing = dataclasses.MISSING
        fields = [f for f in dataclasses.fields(cls) if f.default is f.default_factory is missing]
        rule = "an option without a default must be keyword-only, because reducer has a default"
        remedy = f"Write class {cls.__name__}({cls.__bases__[0].__name__}, kw_only=True)."
        fail(TypeError, cls.__name__, rule, " and ".join(f.name for f in fields), remedy)
