"""What `--dry-run` shows."""

from rich.console import Group, RenderableType
from rich.table import Table

from raymeta.report.tables import short
from raymeta.study.plan.preview import Preview


def preview_table(preview: Preview) -> RenderableType:
    """The first trials, a row each, and the size of the study in sentences."""
    table = Table(title=f"{preview.spec}: the first {len(preview.points)} trials", box=None, pad_edge=False)
    keys = list(dict.fromkeys(key for point in preview.points for key in point))
    for key in keys:
        table.add_column(key.removeprefix("regularizers."))
    table.add_column("")
    for point, label in zip(preview.points, preview.labels, strict=True):
        table.add_row(*(short(point[key]) if key in point else "-" for key in keys), label)
    usual, worst = (60 * preview.hours(steps) for steps in (preview.usual_steps, preview.most_steps))
    lines = [
        f"rungs at {preview.rungs} outer steps",
        f"a step takes {preview.step_s * 1000:.0f} ms and a validation {preview.validation_s:.1f} s, "
        "for one trial alone",
        f"time with {preview.slots} slots: about {usual:.1f} min, at worst (no trial is cut) {worst:.1f} min",
        f"of it {60 * preview.hours(0):.1f} min for at most {preview.finalists} finalists",
        f"disk: at most {preview.disk_bytes / 1e6:.0f} MB of checkpoints",
    ]
    return Group(table, *lines)
