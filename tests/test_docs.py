"""The docs are tested like code: their commands run, their links lead somewhere, their generated parts are fresh."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import zoo
from zoo.cli.main import main

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")
PAGES = [*(ROOT / name for name in READMES), ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page, language):
    """The fenced blocks of a language in a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A directory where models/355M is there, though it is a small model of that name's kind, as commands expect it."""
    place = tmp_path_factory.mktemp("docs")
    (place / "models").mkdir()
    zoo.save(zoo.create("test-tiny", seed=1), place / "models" / "355M", to="openai")
    return place


@pytest.mark.parametrize("page", [*READMES, "docs/getting-started.md", "docs/training.md", "docs/verify.md"])
def test_every_zoo_command_of_a_page_runs(models, page):
    """The commands of a page, run in their order as a reader would, succeed; only the size is a smaller one."""
    script = "\n".join(blocks(page, "bash")).replace("--size 355M", "--size test-tiny")
    parts = (part for line in script.splitlines() for part in line.split(" && "))
    commands = [part for part in parts if re.match(r"(zoo|echo)\b", part)]
    for name in ("gpt2m.safetensors", "gpt2m.pth", "gpt2m-bf16.safetensors", "gpt2m.html", "gpt2m.png"):
        (models / name).unlink(missing_ok=True)
    subprocess.run(["rm", "-rf", "gpt2m-hf", "runs"], cwd=models, check=True)
    (models / "notes.txt").write_text("Every effort moves you a little forward, and so you move. " * 30)
    if page in ("docs/training.md", "docs/verify.md"):  # uses a model made on an earlier page
        zoo.save(zoo.create("test-tiny", seed=1), models / "gpt2m.safetensors")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert len(commands) > 3
    for command in commands:
        done = subprocess.run(["bash", "-c", command], cwd=models, env=environment, capture_output=True, text=True)
        if "--model" not in command and shlex.split(command)[1] == "generate":
            assert "using the small model" in done.stderr
        else:
            said = re.sub(r"note: the context of 64 tokens is full.*\n", "", done.stderr)  # that of test-tiny
            assert (0, "") == (done.returncode, said), command


@pytest.mark.parametrize(
    "page",
    [
        *READMES,
        "docs/getting-started.md",
        "docs/python-api.md",
        "docs/training.md",
        "docs/batches.md",
        "docs/bench.md",
    ],
)
def test_the_python_of_a_page_runs(models, page, monkeypatch, capsys):
    """The Python blocks of a page run one after the other."""
    monkeypatch.chdir(models)
    monkeypatch.setattr("zoo.models.registry._CONFIGS", dict(zoo.models.registry._CONFIGS))
    monkeypatch.setattr("zoo.models.registry._ALIASES", dict(zoo.models.registry._ALIASES))
    for name in ("gpt2m.safetensors", "mine.safetensors", "trained.safetensors"):
        (models / name).unlink(missing_ok=True)
    zoo.save(zoo.create("test-tiny", seed=1), "gpt2m.safetensors")
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


def test_generated_parts_are_fresh():
    """tools/docs.py would write what is there."""
    done = subprocess.run([sys.executable, ROOT / "tools" / "docs.py", "--check"], capture_output=True, text=True)

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    """Every relative link of a page is a file of the repository."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))

    assert [] == [link for link in links if not (page.parent / link).exists()]


def test_every_page_is_reachable_from_the_readme():
    """No page of docs/ is left without a link to it."""
    linked, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in linked or page.suffix != ".md":
            continue
        linked.add(page)
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
        queue += [(page.parent / link).resolve() for link in links]

    assert set() == set(PAGES) - linked


@pytest.mark.parametrize("name", READMES)
def test_a_readme_links_to_every_page(name):
    """Each page of docs/ is one click away from either README."""
    links = set(re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text(encoding="utf-8")))
    pages = {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} | {"docs/decisions/README.md"}

    assert set() == pages - links


def test_the_readmes_say_the_same():
    """Both have the same code, pictures and formats, and as many formats as their first lines say."""
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in READMES)
    fences, pictures = r"```\w+\n.*?```", r"!\[.*?\]\((.*?)\)"
    rows = {
        text: re.findall(r"^\| `(\S+)` \| ([^|]+) \|", text, re.MULTILINE)  # (format, what zoo does)
        for text in (english, chinese)
    }
    words = {"reads and writes": "读写", "reads": "只读", "writes": "只写"}

    assert re.findall(fences, english, re.DOTALL) == re.findall(fences, chinese, re.DOTALL)
    assert re.findall(pictures, english) == re.findall(pictures, chinese)
    assert [(name, words[does]) for name, does in rows[english]] == rows[chinese]
    assert f"between {len(zoo.list_formats())} formats" in english
    assert f"在 {len(zoo.list_formats())} 种格式之间" in chinese


def test_a_readme_begins_with_two_commands():
    """The first block installs and generates, installs and tests."""
    assert blocks("README.md", "bash")[0].splitlines() == [
        'pip install -c constraints.txt . && zoo generate "Every effort moves you"',
        "pip install -c constraints.txt '.[test]' && pytest",
    ]


def test_pictures_are_small_and_true():
    """Each picture of a README parses, is small and asks no server; the hash and the speeds are those of today."""
    pictures = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("docs/images/*.svg")}
    content_hash = zoo.content_hash("stories")
    for picture in pictures.values():
        ElementTree.fromstring(picture)
        assert len(picture) < 100_000
        assert [] == re.findall(r"url\((?!#)", picture)
    done = subprocess.run([sys.executable, ROOT / "tools" / "speed_svg.py", "--check"], capture_output=True, text=True)

    assert {"terminal", "hash", "speed"} <= set(pictures)
    assert content_hash in pictures["terminal"]
    assert content_hash[:32] in pictures["hash"] and content_hash[32:] in pictures["hash"]
    assert (0, "") == (done.returncode, done.stderr)


def test_every_command_and_format_is_documented():
    """docs/cli.md has every command, docs/formats.md every format."""
    cli, formats = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("cli.md", "formats.md"))

    assert all(f"## zoo {name}\n" in cli for name in main.commands)
    assert all(f"## {info.name}\n" in formats for info in zoo.list_formats())


def test_the_changelog_begins_with_this_version():
    """The newest entry of the changelog is the version of the package."""
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert zoo.__version__ == newest[1]
