"""What `executor tool check` says of a callable: loaded, never called."""

import inspect

from . import parameters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .loader import Found


def description(found: "Found") -> "dict[str, Any]":
    """Name, signature and doc of the callable; raises `Unfit` if its class cannot be made without arguments."""
    function = found.function
    if found.cls is not None:
        parameters.check_instance(found.cls, found.name)
    return {
        "callable": found.name,
        "kind": found.kind,
        "signature": _signature(function, found.cls is not None),
        "doc": inspect.getdoc(function),
    }


def _signature(function: "Any", is_method: bool) -> str | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    if is_method:  # without the instance's own parameter
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    return str(signature)
