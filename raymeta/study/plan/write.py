"""A file to edit that says what a search would search: `raymeta space maml+dropgrad --write my.yaml`."""

from collections.abc import Iterator

from raymeta.errors import UserError
from raymeta.schema import fields
from raymeta.storage.files import yaml_line
from raymeta.storage.outputs import write_output
from raymeta.storage.places import AnyPath
from raymeta.study.plan.own import searchable
from raymeta.study.plan.plan import Plan
from raymeta.study.plan.space import CHOICE

HEAD = """\
# What `raymeta search {spec} --space FILE` searches. A key is said in one of these forms:
#   maml.inner_lr: 0.01..0.5:log      a range, here on a log scale; 1..9:2 is every second whole number
#   maml.order: first,second          choices
#   maml.order: first                 one value for all trials
#   maml.inner_lr: {{float: [0.01, 0.5], log: true, when: {{maml.order: {{one_of: [first]}}}}}}
"""


def write_space(plan: Plan, path: AnyPath) -> None:
    """Write the plan's space as a file for `--space`, with a comment for each key; read back it is the same space.

    Raises:
        UserError: the file is there already, or can't be written.
    """
    if path.exists():
        raise UserError(f"{path} is there already; name another file")
    write_output(path, "\n".join(_lines(plan)) + "\n")


def _lines(plan: Plan) -> Iterator[str]:
    base, known = plan.base.flat(), fields(type(plan.base))
    about = {key: field.description for key, field in known.items()}
    yield HEAD.format(spec=plan.base.spec)
    yield "replace: true    # nothing else is searched; false: all that the shipped files search, too"
    yield "params:"
    for key, param in plan.space.params.items():
        if key == CHOICE:
            continue  # of `--choose`, which is to be said again
        form = param.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        when = {other: condition for other, condition in form.pop("when", {}).items() if other != CHOICE}
        yield from _comment(about.get(key), plan.space.origins.get(key))
        yield "  " + yaml_line(key, {**form, "when": when} if when else form)
    own = [key for key in base if key in known and searchable(key, known[key], plan.base.method)]
    for key in own:
        if key in plan.fixed:
            yield from _comment(about.get(key), f"fixed: {plan.fixed[key]}")
            yield "  " + yaml_line(key, base[key])
    yield "  # Not searched, and as it is:"
    for key in own:
        if key not in plan.space.params and key not in plan.fixed:
            origin = f"    # {plan.origins[key]}" if key in plan.origins else ""
            yield f"  # {yaml_line(key, base[key])}{origin}"
    yield "start_from:"
    for point, label in plan.space.starts:
        yield "  - " + yaml_line("label", label)
        yield from (f"    {yaml_line(key, value)}" for key, value in point.items())


def _comment(about: str | None, origin: str | None) -> Iterator[str]:
    yield "  # " + " ".join(part for part in (about, f"({origin})" if origin else None) if part)
