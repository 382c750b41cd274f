"""The names in a registry, read from its source: importing one may take torch and seconds."""

from __future__ import annotations

import ast

from common.environment import ROOT


def registry_keys(file: str, name: str) -> list[str]:
    """Returns the keys of a dict that is written out at the top of a module, such as `SAMPLERS`.

    Args:
        file: the module's file, relative to the root of the repository.
        name: the dict; its keys are text.

    Raises:
        LookupError: the file does not write out such a dict.
    """
    for statement in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if [target.id for target in targets if isinstance(target, ast.Name)] == [name]:
            value = getattr(statement, "value", None)
            if isinstance(value, ast.Dict) and all(isinstance(key, ast.Constant) for key in value.keys):
                return [key.value for key in value.keys]  # type: ignore[union-attr]
    raise LookupError(f"{file} writes out no dict {name}")
