"""Load models that a user names."""

from __future__ import annotations

from zoo.api.by_name import by_name
from zoo.formats.loading import load_path

load = by_name(load_path, "source")
