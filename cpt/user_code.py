"""Python of the user's own that a recipe names as `module:name`: a verifier, a strategy, a stage, a suite, a metric.

The module is looked for beside the recipe first, then on the Python path. Its files are kept as they are when the recipe is
read: what is imported later, and a worker that is started later, run the same bytes, whose hashes the manifest has. Kept are
the module and, of the modules beside the recipe, those that it imports (also indirectly, and within functions). What an
installed package has under the same name comes from there: the recipe's folder is searched last, but for the module itself.
"""

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

from cpt.errors import UserError, nearest_or_all

Files = dict[str, tuple[str, bytes]]  # {module: (its file, the file's content)}
NAMES = sys.stdlib_module_names | {"cpt"}  # of modules that no file of a user's may stand in for
NAME = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$"  # of what a recipe may name


@dataclass(frozen=True)
class Code:
    """What a recipe names, imported, and the files that it came from."""

    path: str  # module:name
    folder: Path | None
    target: Any
    files: Files

    def digests(self) -> dict[str, str]:
        """{file, seen from the recipe's folder: SHA-256}."""
        return digests(self.folder, self.files)

    @property
    def place(self) -> str:
        """`FILE:LINE` of its definition, as far as that is known."""
        module, _, name = self.path.partition(":")
        file, content = self.files.get(module, (module, b""))
        lines = [node.lineno for node in ast.walk(ast.parse(content)) if getattr(node, "name", None) == name]
        return ":".join([file, *map(str, lines[:1])])


def load(path: str, folder: Path | str | None = None) -> Code:
    """Import what `path` ("module:name") names, from its file as it is now.

    Raises:
        UserError: no such module, an error while it is imported (with the line of the user's file), or no such name in it.
    """
    module, _, name = path.partition(":")
    if (problem := missing_module(module, folder)) is not None:
        raise UserError(problem)
    files = read(path, folder)
    if (file := file_of(Path(folder or "."), module)) is not None:  # else it is installed
        if is_elsewhere(top(module), Path(folder or ".")):
            raise UserError(f"{file} has the name of an installed package ({top(module)}): give it another name")
        finder().keep(files)
    try:
        namespace = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        finder().drop(files)
        raise UserError(f"{line_of(error, files)}: {why(error)}") from error
    if not hasattr(namespace, name):
        file = files[module][0] if module in files else module
        defined = [each for each in vars(namespace) if getattr(vars(namespace)[each], "__module__", None) == module]
        raise UserError(f"{file} has no {name}{nearest_or_all(name, defined, 'it has')}")
    return Code(path, None if folder is None else Path(folder), getattr(namespace, name), files)


def named(path: str) -> Any:
    """What `path` ("module:name", or a module) names, of cpt's own."""
    module, _, name = path.partition(":")
    namespace = importlib.import_module(module)
    return getattr(namespace, name) if name else namespace


def line_of(error: BaseException, files: Files) -> str:
    """`FILE:LINE` in the user's files that an import failed at."""
    own = {file for file, _ in files.values()}
    if isinstance(error, SyntaxError) and error.filename in own:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else next(iter(own), "the module")


def why(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:500]


def missing_module(module: str, folder: Path | str | None) -> str | None:
    """Why there is no such module, looked at without running it; None where it is there."""
    beside = file_of(Path(folder or "."), module)
    if top(module) in NAMES and file_of(Path(folder or "."), top(module)) is not None:
        place = beside or Path(folder or ".") / module
        return f"{place} has the name of a module of Python's (or cpt) itself: give it another name"
    if beside is not None or installed(module) is not None:
        return None
    if top(module) in sys.stdlib_module_names:
        return None  # written in C, maybe
    if top(module) == "__main__" or found_by_python(top(module)) is None or "." in module:
        wanted = Path(folder or ".").joinpath(*module.split(".")).with_suffix(".py")
        return f"no module {module}: neither {wanted} nor an installed package"
    return None


def read(path: str, folder: Path | str | None) -> Files:
    """The files of what `path` names; {} where there are none (a module in C, one that is missing)."""
    module, folder = path.partition(":")[0], Path(folder or ".")
    files: Files = {}
    file = file_of(folder, module)
    if file is not None:
        add(files, folder, module, file)
    elif (file := installed(module)) is not None:
        files[module] = (str(file), file.read_bytes())
    return files


def add(files: Files, folder: Path, module: str, file: Path) -> None:
    """Put a module of the folder, its packages, and what they import from there into `files`."""
    if module in files:
        return
    files[module] = (str(file), file.read_bytes())
    for name in [*packages(module), *imported(module, file, files[module][1])]:
        other = file_of(folder, name)
        if other is not None and (top(name) == top(module) or not is_elsewhere(top(name), folder)):
            add(files, folder, name, other)


def file_of(folder: Path, module: str) -> Path | None:
    """The file of a module that is found in the folder."""
    place = folder.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file.resolve() for file in files if file.is_file()), None)


def found_by_python(module: str) -> ModuleSpec | None:
    """Where Python finds a top-level module, whatever was imported from a recipe's folder before."""
    for each in sys.meta_path:
        if not isinstance(each, Finder) and (spec := each.find_spec(module, None)) is not None:
            return spec
    return None


def is_elsewhere(module: str, folder: Path) -> bool:
    """Whether a (top-level) module is Python's own or installed, and not only in the folder."""
    spec = found_by_python(module)
    is_found = spec is not None and spec.origin is not None
    return module in NAMES or (is_found and not Path(spec.origin).resolve().is_relative_to(folder.resolve()))


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


def digests(folder: Path | str | None, files: Files) -> dict[str, str]:
    """{file, seen from the recipe's folder: SHA-256}."""
    folder = Path(folder or ".").resolve()
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

    def keep(self, files: Files) -> None:
        """Let these modules be imported from this content; where a file has changed, all that is kept is imported again."""
        if any(self.files.get(module, kept) != kept for module, kept in files.items()):
            self.drop([*self.files])
        self.drop(files.keys() - self.files.keys())
        self.files |= files

    def drop(self, files: Iterable[str]) -> None:
        """Forget these modules, so that the next import runs their files."""
        for module in files:
            self.files.pop(module, None)
            sys.modules.pop(module, None)


def finder() -> Finder:
    """The finder of this process, installed with the first call."""
    mine = next((each for each in sys.meta_path if type(each) is Finder), None)
    if mine is None:
        mine = Finder({})
        sys.meta_path.insert(0, mine)
    return mine
