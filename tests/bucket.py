"""A table of sources for a server on this machine, and the command line in this process."""

from hashlib import sha256

from click.testing import CliRunner

from zoo.cli.main import main


def write_table(path, server, files, *, pinned=False):
    lines = ["[test-tiny.openai]", f'urls = ["{server.url}a/", "{server.url}b"]', "[test-tiny.openai.files]"]
    for name, content in files.items():
        known = f'size = {len(content)}, sha256 = "{sha256(content).hexdigest()}"' if pinned else ""
        lines.append(f'"{name}" = {{ {known} }}')
    path.write_text("\n".join(lines))


def zoo_command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
