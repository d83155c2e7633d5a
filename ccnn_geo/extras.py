"""Optional dependencies."""

from importlib import import_module
from typing import Any

__all__ = ["import_extra"]


def import_extra(module: str, purpose: str, *, extra: str) -> Any:
    """Import an optional dependency.

    Args:
        module: Name of the module.
        purpose: Purpose for the error message, for example "to estimate normals".
        extra: Extra of `ccnn_geo` that installs it.

    Raises:
        ImportError: If the module, or a system library that it needs, is missing.
    """
    try:
        return import_module(module)
    except (ImportError, OSError) as error:
        package = module.partition(".")[0]
        hint = f"Expected {package} {purpose}: pip install 'ccnn_geo[{extra}]' ({error})"
        raise ImportError(hint) from error
