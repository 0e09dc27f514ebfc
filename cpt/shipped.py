"""The recipes and suites that come with cpt."""

from pathlib import Path


def shipped(kind: str) -> dict[str, Path]:
    """{name: file} of the recipes (`recipes`) or suites (`eval`)."""
    package = Path(__file__).parent
    folders = [package / "_data" / kind, package.parent / kind]
    return {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("*.yaml"))}
