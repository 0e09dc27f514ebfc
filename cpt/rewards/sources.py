"""The files of a user's verifiers, as they are when a run begins: a worker that is started later runs the same bytes.

Kept are the module of the function and, of the modules beside the recipe, those that it imports (also indirectly, and within
functions). What an installed package has under the same name comes from there: the recipe's folder is searched last, but for
the function's own module.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path

Files = dict[str, tuple[str, bytes]]  # {module: (its file, the file's content)}
NAMES = sys.stdlib_module_names | {"cpt"}  # of modules that no file of a user's may stand in for


def read(spec: dict) -> Files:
    """The files of a `function` as the recipe's plain data; {} where there are none (a module in C, one that is missing)."""
    module, folder = spec["path"].partition(":")[0], Path(spec.get("folder") or ".")
    found: Files = {}
    file = file_of(folder, module)
    if file is not None:
        add(found, folder, module, file)
    elif (file := installed(module)) is not None:
        found[module] = (str(file), file.read_bytes())
    return found


def add(found: Files, folder: Path, module: str, file: Path) -> None:
    """Put a module of the folder, its packages, and what they import from there into `found`."""
    if module in found:
        return
    found[module] = (str(file), file.read_bytes())
    for name in [*packages(module), *imported(module, file, found[module][1])]:
        other = file_of(folder, name)
        if other is not None and (top(name) == top(module) or not is_elsewhere(top(name), folder)):
            add(found, folder, name, other)


def file_of(folder: Path, module: str) -> Path | None:
    """The file of a module that is found in the folder."""
    place = folder.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file.resolve() for file in files if file.is_file()), None)


def found_by_python(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def is_elsewhere(module: str, folder: Path) -> bool:
    """Whether a (top-level) module is Python's own or installed, and not only in the folder."""
    spec = found_by_python(module)
    there = spec is not None and spec.origin is not None
    return module in NAMES or (there and not Path(spec.origin).resolve().is_relative_to(folder.resolve()))


def installed(module: str) -> Path | None:
    """The Python file of an installed module, found without running it."""
    spec, rest = found_by_python(top(module)), module.partition(".")[2]
    if spec is None:
        return None
    places = (
        [file_of(Path(each), rest) for each in spec.submodule_search_locations or ()]
        if rest
        else [Path(spec.origin or "")]
    )
    return next((each for each in places if each is not None and each.suffix == ".py" and each.is_file()), None)


def content_of(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes()
    except OSError:
        return None


def top(module: str) -> str:
    return module.partition(".")[0]


def packages(module: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`."""
    parts = module.split(".")
    return [".".join(parts[:number]) for number in range(1, len(parts))]


def imported(module: str, file: Path, content: bytes) -> Iterator[str]:
    """The modules that a module may import, their packages included; none where it is not Python."""
    package = (module if file.name == "__init__.py" else module.rpartition(".")[0]).split(".")
    try:
        nodes = [*ast.walk(ast.parse(content))]
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *filter(None, [node.module])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        for name in names:
            yield from [*packages(name), name]


def digests(spec: dict, files: Files) -> dict[str, str]:
    """{file, seen from the recipe's folder: SHA-256}."""
    folder = Path(spec.get("folder") or ".").resolve()
    paths = {Path(file): content for file, content in files.values()}
    return {
        str(path.relative_to(folder) if path.is_relative_to(folder) else path.name): hashlib.sha256(content).hexdigest()
        for path, content in sorted(paths.items())
    }


class Loader(SourceFileLoader):
    """Loads one module from its kept content; nothing is read or written beside its file."""

    def __init__(self, module: str, file: str, content: bytes):
        super().__init__(module, file)
        self.content = content

    def get_data(self, path: str) -> bytes:
        return self.content if path == self.path else super().get_data(path)

    def get_code(self, fullname: str):
        return self.source_to_code(self.content, self.path)


class Finder(MetaPathFinder):
    """Finds the kept modules, before anything else is looked through."""

    def __init__(self, files: Files):
        self.files = files

    def find_spec(self, fullname: str, path, target=None) -> ModuleSpec | None:
        if fullname not in self.files:
            return None
        file, content = self.files[fullname]
        within = [str(Path(file).parent)] if Path(file).name == "__init__.py" else None
        loader = Loader(fullname, file, content)
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=within)
