"""The user's `module:function`, called as f(completion, row) in a worker process; its module is looked for beside the
recipe first (see `sources`)."""

import ast
import importlib
import sys
from pathlib import Path

from cpt.rewards import sources


def build(spec: dict):
    """spec: path ("module:function"), folder. In a worker, which has installed the module's files (`sources.Finder`)."""
    module, _, name = spec["path"].partition(":")
    if spec.get("folder") and str(spec["folder"]) not in sys.path:
        sys.path.append(str(spec["folder"]))
    return getattr(importlib.import_module(module), name)


def names_of(body: list) -> set[str]:
    """What a module defines, assigns or imports outside of functions and classes; "*" for a star import."""
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
    module, _, name = spec["path"].partition(":")
    folder = Path(spec.get("folder") or ".")
    file = sources.file_of(folder, module)
    if sources.top(module) in sources.NAMES and sources.file_of(folder, sources.top(module)) is not None:
        return f"{file or folder / module} has the name of a module of Python's (or cpt) itself: give it another name"
    if file is not None:
        try:
            names = names_of(ast.parse(file.read_bytes()).body)
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
        except (SyntaxError, ValueError) as error:
            return f"{file}:{getattr(error, 'lineno', 1)}: {getattr(error, 'msg', error)}"
        return None if {name, "*", "__getattr__"} & names else f"{file} has no function {name}"
    if sources.top(module) == "__main__" or sources.found_by_python(sources.top(module)) is None:
        beside = folder.joinpath(*module.split(".")).with_suffix(".py")
        return f"no module {module}: neither {beside} nor an installed package"
    return None
