"""Publish checkpoints that a user names; apart from the others, because it imports requests."""

from __future__ import annotations

from zoo.api.by_name import by_name
from zoo.hub.push import push_path

push = by_name(push_path, "source")
