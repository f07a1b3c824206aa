"""Convert, compare and verify checkpoints that a user names: by path, model name, address or run directory."""

from __future__ import annotations

from zoo.api.by_name import by_name
from zoo.conversion.make_plan import plan_path
from zoo.conversion.run import convert_path
from zoo.examine.diff import diff_paths
from zoo.examine.verify import verify_path
from zoo.formats.content_hash import hash_path
from zoo.formats.opening import open_path

open_checkpoint = by_name(open_path, "source")
make_plan = by_name(plan_path, "source")
convert = by_name(convert_path, "source")
content_hash = by_name(hash_path, "source")
diff = by_name(diff_paths, "a", "b")
verify = by_name(verify_path, "source", "against")
