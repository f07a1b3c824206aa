"""Outputs appear whole or not at all: also if the power fails at any moment, and with others writing beside them."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.core import sync_and_rename
from zoo.core.output import atomic_output
from zoo.errors import OutputError

NEW = b"new content" * 999


class Disk:
    """What a disk would have after a power failure: names as they are or as they were synced, data as synced."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, watch: Callable[["Disk"], None]) -> None:
        self.root, self.data, self.names = root, {}, {}
        for path in [root, *root.rglob("*")]:
            self._note(path)
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)
        for name in ("rename", "replace", "link", "unlink"):
            monkeypatch.setattr(os, name, self._after(getattr(os, name), watch))
        monkeypatch.setattr(sync_and_rename, "_renameat2", self._after(sync_and_rename._renameat2, watch))

    def _after(self, call, watch):
        def called(*arguments, **options):
            found = call(*arguments, **options)
            watch(self)
            return found

        return called

    def _sync(self, descriptor):
        self._fsync(descriptor)
        self._note(Path(f"/proc/self/fd/{descriptor}").readlink())

    def _note(self, path):
        if path.is_dir():
            self.names[path.stat().st_ino] = {each.name: each.lstat().st_ino for each in path.iterdir()}
        else:
            self.data[path.stat().st_ino] = path.read_bytes()

    def with_current_names(self, path):
        """The file system wrote all names, and no data that was not synced: what a file then holds is zeros."""
        if path.is_dir():
            return {each.name: self.with_current_names(each) for each in path.iterdir()}
        return self.data.get(path.stat().st_ino, bytes(path.stat().st_size)) if path.exists() else None

    def with_synced_names(self, name):
        """It wrote nothing that was not synced."""
        return self._content(self.names[self.root.stat().st_ino].get(name))

    def _content(self, inode):
        if inode in self.names:
            return {name: self._content(each) for name, each in self.names[inode].items()}
        return None if inode is None else self.data.get(inode, b"lost")


def write(path, *, as_directory, force):
    """A file, or a directory of two."""
    with atomic_output(path, force=force) as temporary:
        if as_directory:
            (temporary / "inner").mkdir(parents=True)
            (temporary / "inner" / "a").write_bytes(NEW)
            (temporary / "b").write_bytes(NEW[:7])
        else:
            temporary.write_bytes(NEW)
    return {"inner": {"a": NEW}, "b": NEW[:7]} if as_directory else NEW


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which file is synced")
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("old", ["nothing", "file", "directory"])
@pytest.mark.parametrize("as_directory", [True, False])
def test_a_power_failure_at_any_moment_leaves_the_old_or_the_new(tmp_path, monkeypatch, as_directory, old, exchange):
    """After each change of names the disk has one of the two, whichever names it wrote; in the end it has the new."""
    path, before = tmp_path / "out", None
    if old == "file":
        path.write_bytes(before := b"old")
    elif old == "directory":
        path.mkdir()
        (path / "x").write_bytes(b"old")
        before = {"x": b"old"}
    if not exchange:
        monkeypatch.setattr(sync_and_rename, "_renameat2", lambda old, new, flags: False)
    expected = {"inner": {"a": NEW}, "b": NEW[:7]} if as_directory else NEW
    seen = []

    def watch(disk):
        seen.append(disk.with_current_names(path) if path.exists() else None)
        seen.append(disk.with_synced_names("out"))

    disk = Disk(tmp_path, monkeypatch, watch)
    write(path, as_directory=as_directory, force=old != "nothing")

    two_renames = not exchange and old != "nothing" and (as_directory or old == "directory")
    assert all(each in (before, expected) for each in seen if not (two_renames and each is None))
    assert expected == disk.with_synced_names("out") == disk.with_current_names(path)
    assert ["out"] == os.listdir(tmp_path)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("as_directory", [True, False])
def test_of_two_that_write_one_new_name_the_later_one_fails(tmp_path, monkeypatch, as_directory, exchange):
    """Without force what has come into being meanwhile is not replaced, although nothing was there at first."""
    if not exchange:
        monkeypatch.setattr(sync_and_rename, "_renameat2", lambda old, new, flags: False)
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="exists already"), atomic_output(path) as later:
        later.mkdir() if as_directory else later.write_bytes(b"later")
        write(path, as_directory=False, force=False)

    assert path.read_bytes() == NEW
    assert ["out"] == os.listdir(tmp_path)


def test_what_is_being_written_is_not_tidied_and_what_was_killed_is(tmp_path):
    """A lock tells, not a process id: a live temporary stays, that of a killed process goes."""
    script = f"""
import os, sys
from pathlib import Path
from zoo.core.output import atomic_output
with atomic_output(Path({str(tmp_path)!r}) / "a") as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        write(tmp_path / "b", as_directory=False, force=False)
        assert len(list(tmp_path.glob(".zoo-*.tmp/a"))) == 1
        process.kill()
        process.wait()
    write(tmp_path / "c", as_directory=False, force=False)
    assert ["b", "c"] == sorted(os.listdir(tmp_path))


def test_temporary_files_are_in_a_directory_of_ones_own(tmp_path):
    """Nobody else may enter it, so that no link can be planted; the longest names fit, too."""
    path = tmp_path / ("n" * 251 + ".pth")
    with atomic_output(path) as temporary:
        assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700
        assert temporary.name == path.name
        temporary.write_bytes(NEW)
    assert path.read_bytes() == NEW


def test_a_dangling_link_at_the_output_is_not_followed(tmp_path):
    """It counts as something that exists, and is itself replaced."""
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="exists already"):
        write(tmp_path / "out", as_directory=False, force=False)
    write(tmp_path / "out", as_directory=False, force=True)

    assert not (tmp_path / "out").is_symlink()
    assert not (tmp_path / "elsewhere").exists()
