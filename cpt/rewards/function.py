"""The user's `module:function`, called as f(completion, row) in a worker process; its module is looked for beside the
recipe first (see `user_code`)."""

import ast
import importlib
import inspect
import sys
from pathlib import Path

from cpt import user_code

MAY_HANG = True


def build(spec: dict):
    """spec: path ("module:function"), folder. In a worker, which has installed the module's files (`user_code.Finder`)."""
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
    if (problem := user_code.missing_module(module, folder)) is not None:
        return problem
    file = user_code.file_of(folder, module) or user_code.installed(module)
    if file is not None:
        try:
            body = ast.parse(file.read_bytes()).body
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
        except (SyntaxError, ValueError, RecursionError) as error:
            return f"{file}:{getattr(error, 'lineno', 1)}: {getattr(error, 'msg', error)}"
        if not {name, "*", "__getattr__"} & names_of(body):
            return f"{file} has no function {name}"
        return uncallable(file, next((each for each in reversed(body) if getattr(each, "name", None) == name), None))
    return missing_of_python(module, name) if user_code.top(module) in sys.stdlib_module_names else None


def missing_of_python(module: str, name: str) -> str | None:
    """The same of a module of Python's own that is not written in Python."""
    try:
        function = getattr(importlib.import_module(module), name)
        inspect.signature(function).bind("completion", {})
    except (ImportError, AttributeError):
        return f"Python has no {module}.{name}"
    except TypeError as error:
        return f"{module}.{name} cannot be called as f(completion, row): {error}"
    except ValueError:  # a function in C that does not say what it takes
        return None
    return None


def uncallable(file: Path, node: ast.AST | None) -> str | None:
    """Why a function cannot be called as f(completion, row), as far as its definition shows."""
    if isinstance(node, ast.AsyncFunctionDef):
        return f"{file}:{node.lineno}: {node.name} is async, and a verifier must return its number: remove async"
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return None
    taken = [*node.args.posonlyargs, *node.args.args]
    needed = len(taken) - len(node.args.defaults) + sum(each is None for each in node.args.kw_defaults)
    if needed > 2 or (len(taken) < 2 and node.args.vararg is None):
        return f"{file}:{node.lineno}: {node.name}({ast.unparse(node.args)}) is called as {node.name}(completion, row)"
    return None
