"""The report of a conversion."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zoo.core.html import html_table


@dataclass(frozen=True)
class Report:
    """The result of a conversion.

    Attributes:
        source: Path of the source.
        source_format: Format of the source.
        out: Path of the output.
        target_format: Format of the output.
        tensors: Number of converted parameters.
        n_parameters: Number of values in them.
        bytes_written: Number of tensor bytes written.
        dropped: Source tensors that were dropped -> why.
        added: Derived tensors of the target.
        tied: Whether the head is the embedding.
        prefix: Prefix of the source's names.
        cast: Number of cast tensors, by "from -> to".
        encoding: Quantisation of the output; "" for none.
        lossless: Whether all values were preserved.
        verified: Whether the output was read back and compared.
        notes: Sentences about what was left out or assumed.
        seconds: Wall-clock time.
        peak_memory: Anonymous memory in bytes above the start; None if the system does not report it.
        provenance: Origin that the output records.
    """

    source: str
    source_format: str
    out: str
    target_format: str
    tensors: int
    n_parameters: int
    bytes_written: int
    dropped: dict[str, str]
    added: list[str]
    tied: bool
    prefix: str
    cast: dict[str, int]
    encoding: str
    lossless: bool
    verified: bool
    notes: list[str]
    seconds: float
    peak_memory: int | None
    provenance: dict[str, Any]

    def _repr_html_(self) -> str:
        return html_table(("field", "value"), self.to_dict().items())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)
