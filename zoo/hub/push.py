"""Publish a checkpoint on the Hugging Face Hub in transformers' layout, with a model card."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import zoo
from zoo.conversion.report import Report
from zoo.conversion.run import convert_path
from zoo.core.output import atomic_output
from zoo.core.progress import OnProgress
from zoo.errors import OptionError
from zoo.formats.content_hash import hash_path
from zoo.formats.opening import open_path
from zoo.hub.fetch import is_offline
from zoo.hub.http.sha256 import hash_file
from zoo.hub.hub_client import explained, load_library

_OWN = {".gitattributes"}  # files of a new repository


@dataclass(frozen=True)
class Pushed:
    """A published checkpoint.

    Attributes:
        repository: "org/name".
        commit: Address of the commit; "" if nothing was uploaded.
        content_blake3: Content hash, as `zoo hash` prints it.
        files: SHA-256 of each file.
    """

    repository: str
    commit: str
    content_blake3: str
    files: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


def push_path(
    source: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    dtype: str | None = None,
    update: bool = False,
    on_progress: OnProgress | None = None,
) -> Pushed:
    """Publish a checkpoint of any format on the Hub.

    Args:
        source: path or name of a checkpoint, an address, or a run.
        repository: "org/name"; it is made if it does not exist.
        private: whether a new repository is for its owner only.
        revision: branch to commit to, made if need be; None is main.
        message: Message of the commit.
        license: License for the card, as the Hub spells it ("mit").
        dtype: Dtype to cast to.
        update: whether a repository that has files already may be changed.
        on_progress: called as the conversion's bytes go by.

    Raises:
        OptionError: the repository has files, and update is not given; or ZOO_OFFLINE is set.
        DownloadError: the Hub refuses, or cannot be reached.
        MissingPackage: huggingface_hub is not installed.
        ZooError: the source cannot be converted.
    """
    if is_offline():
        raise OptionError(
            "ZOO_OFFLINE is set, so nothing is uploaded; prepare the files without uploading: dry_run=DIR"
        )
    api = load_library().HfApi(library_name="zoo", library_version=zoo.__version__)
    with tempfile.TemporaryDirectory(prefix="zoo-push-") as directory:
        path = Path(directory) / "repository"
        made = prepare(source, path, repository, license=license, dtype=dtype, on_progress=on_progress)
        with explained(repository):
            api.create_repo(repository, private=private, exist_ok=True)
            if not update and (present := set(api.list_repo_files(repository)) - _OWN):
                raise OptionError(
                    f"{repository} already has files, such as {min(present)}; replace them with update=True"
                )
            if revision:
                api.create_branch(repository, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=path,
                revision=revision,
                commit_message=message or f"{Path(str(source)).name}, by zoo {zoo.__version__}",
            )
    return Pushed(repository, commit.commit_url, made.content_blake3, made.files)


def prepare(
    source: str | Path,
    directory: Path,
    repository: str,
    *,
    license: str | None = None,
    dtype: str | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Pushed:
    """Write the files of a Hub repository into a directory and upload nothing.

    Raises:
        OptionError: repository is not of the form "org/name".
        OutputError: The directory exists or cannot be written.
        ZooError: The source cannot be converted.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise OptionError(f"{repository!r} is not a repository name; write org/name")
    with atomic_output(directory, force=force) as temporary:
        report = convert_path(source, temporary, to="huggingface", dtype=dtype, on_progress=on_progress)
        files = {path.name: hash_file(path) for path in sorted(temporary.iterdir())}
        content = hash_path(temporary)
        card = make_card(repository, report, open_path(temporary)[1].config.to_dict(), content, files, license)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return Pushed(repository, "", content, files)


def make_card(
    repository: str,
    report: Report,
    config: dict[str, Any],
    content: str,
    files: dict[str, str],
    license: str | None,
) -> str:
    """Return the model card: metadata for the Hub, how to load the model, its origin, and hashes."""
    head = [f"license: {json.dumps(license)}"] if license else []
    head += ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- gpt2", "- zoo"]
    name = repository.partition("/")[2]
    casts = "".join(f"\n- {count} tensors were cast, {cast}" for cast, count in report.cast.items())
    return f"""---
{chr(10).join(head)}
---

# {name}

A GPT-2 with {report.n_parameters:,} parameters, converted from the format {report.source_format} by
zoo {zoo.__version__} and compared bit for bit with its source.{casts}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repository}")
tokenizer = AutoTokenizer.from_pretrained("{repository}")
```

```sh
zoo generate --model hf:{repository} "Every effort moves you"
```

## Architecture

{_table(("field", "value"), {key: json.dumps(value) for key, value in config.items()})}

## Provenance

The content hash of the model, which is the same in every format (`zoo hash hf:{repository}`):
`{content}`

{_table(("file", "SHA-256"), files)}

```json
{json.dumps(report.provenance, indent=2)}
```
"""


def _table(header: tuple[str, str], rows: dict[str, str]) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "|---|---|", *(f"| {key} | `{value}` |" for key, value in rows.items())]
    return "\n".join(lines)
