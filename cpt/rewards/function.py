"""The user's `module:function`, called as f(completion, row) in a worker process; its module is looked for beside the
recipe first."""

import importlib
import importlib.util
import sys
from pathlib import Path


def build(spec: dict):
    """spec: path ("module:function"), folder."""
    module, _, name = spec["path"].partition(":")
    with_folder(spec.get("folder"))
    return getattr(importlib.import_module(module), name)


def with_folder(folder: str | None) -> None:
    if folder and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def names_of(body: list) -> set[str]:
    """What a module defines, assigns or imports outside of functions and classes; "*" for a star import."""
    import ast

    names, rest = set(), list(body)
    while rest:
        node = rest.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        rest += ast.iter_child_nodes(node)
    return names


def missing(spec: dict) -> str | None:
    """What cannot be found of the module or the function, looked at without running it; None where all is there."""
    import ast

    module, _, name = spec["path"].partition(":")
    place = Path(spec.get("folder") or ".").joinpath(*module.split("."))
    file = place / "__init__.py" if (place / "__init__.py").is_file() else place.with_name(f"{place.name}.py")
    if file.is_file():
        try:
            names = names_of(ast.parse(file.read_bytes()).body)
        except (SyntaxError, ValueError) as error:
            return f"{file}:{getattr(error, 'lineno', 1)}: {getattr(error, 'msg', error)}"
        return None if {name, "*", "__getattr__"} & names else f"{file} has no function {name}"
    if module.split(".")[0] == "__main__" or importlib.util.find_spec(module.split(".")[0]) is None:
        return f"no module {module}: neither {file} nor an installed package"
    return None
