"""Where code lives and which way imports run: docs/architecture.md draws the same picture."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest
import sizes

ROOT = Path(__file__).parents[1]
FOLDERS = {"zoo": ROOT / "zoo", "zoo.converters": ROOT / "converters", "zoo.cli": ROOT / "cli"}

LAYERS = (
    {"zoo", "errors"},
    {"core"},
    {"containers", "text", "models"},
    {"formats"},
    {"converters", "conversion"},
    {"examine", "generation"},
    {"engine"},
    {"hub"},
    {"api"},
    {"train"},
    {"bench", "plot"},
    {"cli"},
)
"""Each folder of zoo may import the layers before its own; within a layer only what ALLOWED_BESIDE names."""

ALLOWED_BESIDE = {("models", "text"), ("examine", "generation")}
SAME_ROLE = {"__init__", "base", "config", "kv_cache", "options", "reader", "writer", "registry"}
"""Names that several modules may share, because they have one role in parallel folders."""

needs_source = pytest.mark.skipif(not (ROOT / "converters").is_dir(), reason="needs zoo's source tree")


def modules():
    """Yield (dotted name, path) of every module of zoo, in every folder."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if folder == FOLDERS["zoo"] and parts[0] in ("cli", "converters"):  # links to the other two
                continue
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def imports(path):
    """Yield (line, module) of everything of zoo that a file imports, inside functions too, but not for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in found if name.split(".")[0] == "zoo")


def layer(name):
    """Return (number of the layer, folder) of a dotted module name."""
    folder = [*name.split("."), ""][1] or "zoo"
    for i, folders in enumerate(LAYERS):
        if folder in folders:
            return i, folder
    return None


def module_of(target, known):
    """Return the module that an imported name is or belongs to."""
    return target if target in known else target.rpartition(".")[0]


def breaches(name, path):
    """Yield the imports of a module that run against the direction."""
    if name in ("zoo", "zoo.__main__"):  # the public names; the way into the command line
        return
    here, folder = layer(name)
    for line, target in imports(path):
        found = layer(target)
        if found is None:  # an attribute of the package zoo
            continue
        there, other = found
        if other == "converters" != folder:  # only zoo/formats/registry.py knows them, by name
            yield f"{path.relative_to(ROOT)}:{line}: {name} imports {target}"
            continue
        if other not in (folder, "zoo") and (there > here or (there == here and (folder, other) not in ALLOWED_BESIDE)):
            yield f"{path.relative_to(ROOT)}:{line}: {name} imports {target}"


@needs_source
def test_imports_run_in_one_direction():
    """No module of any folder imports a folder above its own, not even inside a function."""
    wrong = [breach for name, path in modules() for breach in breaches(name, path)]

    assert wrong == []


@needs_source
def test_the_guard_sees_a_breach_inside_a_function(tmp_path, monkeypatch):
    """An import that runs back up is found with its file and line, wherever it stands."""
    path = tmp_path / "sneaky.py"
    path.write_text("import json\n\n\ndef f():\n    from zoo.hub.resolve import find_checkpoint\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)

    assert [*breaches("zoo.core.sneaky", path)] == [
        "sneaky.py:5: zoo.core.sneaky imports zoo.hub.resolve.find_checkpoint"
    ]


@needs_source
def test_every_folder_of_zoo_has_a_layer():
    """A new folder must be given its place in the direction of imports."""
    found = {name.split(".")[1] for name, path in modules() if path.name == "__init__.py" and name.count(".")}

    assert found == set().union(*LAYERS) - {"zoo", "errors"}


@needs_source
def test_no_two_modules_import_each_other_in_a_circle():
    """Following imports, also those inside functions, never leads back to where one started."""
    paths = dict(modules())
    edges = {name: {module_of(target, paths) for _, target in imports(path)} - {name} for name, path in paths.items()}
    edges["zoo"] = set()  # its public names are looked up on first use
    done: set[str] = set()

    def walk(name, way):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for target in edges[name]:
                walk(target, [*way, name])
            done.add(name)

    for name in edges:
        walk(name, [])


@needs_source
def test_basenames_are_unique():
    """Modules share a name only if they have one role in parallel folders; commands are named after what they run."""
    found = defaultdict(list)
    for name, path in modules():
        if not name.startswith("zoo.cli"):
            found[path.stem].append(name)

    assert {stem: names for stem, names in found.items() if len(names) > 1 and stem not in SAME_ROLE} == {}


@needs_source
def test_every_folder_says_what_is_in_it():
    """Each __init__.py has a docstring of a few lines."""
    assert [
        name
        for name, path in modules()
        if path.name == "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


@needs_source
def test_files_and_functions_stay_within_their_limits():
    """No file has more than 250 lines and no function more than 40 without its docstring, exceptions aside."""
    assert (sizes.FILE_LIMIT, sizes.FUNCTION_LIMIT) == (250, 40)
    assert sizes.too_long() == []


def test_a_docstring_does_not_count_as_code():
    """A function of three lines of code has that size with and without decorators and a docstring of three lines."""
    plain = "def f():\n    x = 1\n    return x\n"
    told = '@cache\ndef f():\n    """Say.\n\n    More."""\n    x = 1\n    return x\n'

    assert [sizes.code_lines(ast.parse(text).body[0]) for text in (plain, told)] == [3, 3]


@needs_source
def test_the_limits_are_enforced(tmp_path, monkeypatch):
    """A file and a function that are one line too long are found by name, and so is an exception without need."""
    body = "def f():\n" + "    x = 1\n" * 40
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "a.py").write_text(body + "\n" * 210)
    monkeypatch.setattr(sizes, "ROOT", tmp_path)
    monkeypatch.setattr(sizes, "EXCEPTIONS", {"zoo/b.py g": "none"})

    assert sizes.too_long() == [
        "zoo/a.py has 251 lines",
        "zoo/a.py f has 41 lines",
        "zoo/b.py g no longer needs its exception",
    ]
