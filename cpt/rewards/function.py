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


def top_level_names(tree) -> set[str]:
    """What a module's own lines define, assign or import."""
    import ast

    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def missing(spec: dict) -> str | None:
    """What cannot be found of the module or the function, looked at without running it; None where all is there."""
    import ast

    module, _, name = spec["path"].partition(":")
    folder = Path(spec.get("folder") or ".")
    file = folder.joinpath(*module.split(".")).with_suffix(".py")
    if file.is_file():
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except SyntaxError as error:
            return f"{file}:{error.lineno}: {error.msg}"
        return None if name in top_level_names(tree) else f"{file} has no function {name}"
    if importlib.util.find_spec(module.split(".")[0]) is None:
        return f"no module {module}: neither {file} nor an installed package"
    return None
