"""A training config out of a file nobody vouches for: read as data, never run."""

from __future__ import annotations

import ast
from typing import Any

_CONSTANTS = {"inf": float("inf"), "nan": float("nan")}


def parse_config(text: str) -> dict[str, Any]:
    """Return the top-level variables of a config as mmengine dumps it: names and nested literals.

    mmengine itself runs the text as a program. Here an assignment of anything but constants, containers of them and
    ``dict(key=value)`` is refused.

    Raises:
        ValueError: the text is anything else; the message names line and kind.
    """
    try:
        return _assignments(ast.parse(text))
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno} is not Python" if error.lineno else "it is not Python") from None
    # What is nested too deep for Python's parser, and keys that are lists.
    except (MemoryError, RecursionError, TypeError) as error:
        raise ValueError(f"it cannot be read: {error or 'nested too deep'}") from None


def _assignments(module: ast.Module) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values[name] = _value(value)
            case _:
                raise ValueError(f"line {statement.lineno} is a {type(statement).__name__}, not a plain assignment")
    return values


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Dict(keys=keys, values=values):
            if any(key is None for key in keys):
                raise ValueError(f"line {node.lineno} unpacks a dict")
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.List(elts=parts):
            return [_value(part) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(_value(part) for part in parts)
        case ast.Set(elts=parts):
            return {_value(part) for part in parts}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            if any(keyword.arg is None for keyword in keywords):
                raise ValueError(f"line {node.lineno} unpacks a dict")
            return {str(keyword.arg): _value(keyword.value) for keyword in keywords}
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
    raise ValueError(f"line {node.lineno} holds a {type(node).__name__}, not a constant")
