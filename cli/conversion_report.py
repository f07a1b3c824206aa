"""What `zoo convert` shows of a plan and of a finished conversion."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from zoo.cli._show import count_text, human_bytes, say, shape_text, show_list

if TYPE_CHECKING:
    from zoo.conversion.plan import Plan, Step
    from zoo.conversion.report import Report


def show_plan(plan: Plan) -> None:
    """Print what happens to each tensor, of layers that are alike only the first, and what is added and dropped."""
    known: dict[str, tuple[str, ...]] = {}
    alike = 0
    for step in plan.steps():
        kind, how = re.sub(r"^blocks\.\d+\.", "blocks.", step.ours), _how(step)
        if known.get(kind) == how:
            alike += 1
            continue
        known[kind] = how
        before, operation, after, dtype = how
        say(f"{', '.join(step.sources)}  {before}")
        say(f"  {operation}: {', '.join(step.targets)}  {after}  {dtype}")
    if alike:
        say(f"... and {count_text(alike, 'tensor')} of the other layers in the same way; --json lists them")
    rows = [("dropped", f"{drop.name}, {drop.why} (compared before anything is written)") for drop in plan.drops]
    rows += [("added", name) for name in plan.added()]
    rows += [("note", text) for text in plan.notes]
    if rows:
        show_list(rows, indent=0)
    say(f"{plan.source_format.name} -> {plan.target_format.name}, {human_bytes(plan.nbytes)}, {_kept(plan)}")


def _how(step: Step) -> tuple[str, ...]:
    shapes = (shape_text(next(iter(side.values()))) for side in (step.sources, step.targets))
    before, after = shapes
    return before, step.operation, after, step.dtype


def _kept(done: Plan | Report) -> str:
    return "lossless" if done.lossless else "not lossless"


def show_report(report: Report) -> None:
    """Print what a conversion did, and that it was verified."""
    head = "tied head" if report.tied else "untied head"
    say(
        f"{report.out}: {count_text(report.tensors, 'tensor')}, {report.n_parameters:,} parameters ({head}), "
        f"{human_bytes(report.bytes_written)}, {report.source_format} -> {report.target_format}"
    )
    rows = []
    if report.prefix:
        rows.append(("prefix:", f"{report.prefix!r} before the source's names"))
    if report.dropped:
        whys = "; ".join(sorted(set(report.dropped.values())))
        rows.append(("dropped:", f"{count_text(len(report.dropped), 'tensor')}, compared first: {whys}"))
    if report.added:
        example = report.added[0] if len(report.added) == 1 else f"such as {report.added[0]}"
        rows.append(("added:", f"{count_text(len(report.added), 'derived tensor')} ({example})"))
    rows += [("cast:", f"{count_text(count, 'tensor')} {cast}") for cast, count in report.cast.items()]
    if report.encoding:
        rows.append(("stored:", f"matrices as {report.encoding}"))
    rows += [("note:", text) for text in report.notes]
    if rows:
        show_list(rows)
    checked = "read back and equal bit for bit" if report.verified else "not read back"
    memory = f", {human_bytes(report.peak_memory)} of memory" if report.peak_memory is not None else ""
    say(f"  {_kept(report)}; {checked}; {report.seconds:.2f} s{memory}")
