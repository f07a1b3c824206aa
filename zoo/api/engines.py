"""Open engines by what a user names."""

from __future__ import annotations

from zoo.api.by_name import by_name
from zoo.engine import Engine

open_engine = by_name(Engine.open, "source")
