"""`raymeta final`."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from raymeta.cli.common import (
    DataRoot,
    Json,
    Pack,
    Preset,
    ShipData,
    Slots,
    Task,
    console,
    placed,
    prepare,
    pretrain,
    say,
)
from raymeta.errors import Interrupted, RunFailed, UserError

if TYPE_CHECKING:
    from raymeta.config import TrialConfig


def final(
    configs: Annotated[
        list[str],
        typer.Argument(
            help="Methods at the preset, as in maml+dropgrad or maml+dropgrad:rate=0.2, or .yaml files as "
            "`raymeta export` writes; and key=value."
        ),
    ],
    task: Task = None,
    preset: Preset = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds: 0, 1, …")] = 3,
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    test_data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Test on the test split of another data set, a prepared one: cross-domain, task.test_dataset."
        ),
    ] = None,
    slots: Slots = None,
    pack: Pack = None,
    picture: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw the validation curves to this .png, .svg or .pdf file."),
    ] = None,
    by_step: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Score each config before and after every inner step, and draw it to this file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train configs at their full budget with several seeds and test them on the test split: a table's rows.

    Example: raymeta final best.yaml --seeds 3 budget.outer_steps=5000

    Example: raymeta final maml alfa l2f --task omniglot-5w1s --picture curves.png

    Example: raymeta final alfa --task miniimagenet-5w5s --data-root ~/data/mini --test-data cub
    """
    from mlflow.exceptions import MlflowException

    from raymeta.final import by_step as inner_steps
    from raymeta.final.runs import final as run
    from raymeta.problem import open_problem
    from raymeta.report.finals import as_table, draw, log_final
    from raymeta.study.tracking.connection import problem_of

    for option, path in (("--picture", picture), ("--by-step", by_step)):
        if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
            raise UserError(f"{option} {path}: expected a .png, .svg or .pdf file")
    if test_data is not None:
        configs = [*configs, f"task.test_dataset={test_data}"]
    trials, provenances = _configs_for_final(configs, task, preset)
    trials = {name: placed(trial, data_root) for name, trial in trials.items()}
    for name, trial in trials.items():
        dataset = open_problem(trial.task)
        prepare(dataset, data_root)
        expected = provenances[name].get("data", {})
        if expected.get("name") == dataset.name and expected["fingerprint"] != dataset.fingerprint:
            raise UserError(
                f"{provenances[name]['file']}: was found on {dataset.name} with fingerprint "
                f"{expected['fingerprint'][:12]}, but {dataset.name} on this machine has {dataset.fingerprint[:12]}"
            )
        dataset.bank("test", trial.task.bank_seed, final=True)  # what cannot be tested is refused before any training
    for trial in trials.values():
        pretrain(trial, open_problem(trial.task))
    try:
        tables, problems = run(
            trials,
            list(range(seeds)),
            slots=slots,
            pack=pack,  # type: ignore[arg-type]  # its callback has parsed it
            by_step=by_step is not None,
            data_root=data_root,
            ship_data=ship_data,
            quiet=as_json,
        )
    except Interrupted as left:
        say(str(left))
        say(f"go on with: {shlex.join(['raymeta', *sys.argv[1:]])}")
        raise typer.Exit(130) from left
    try:
        for table in tables:
            log_final(table, provenances[table.name])
    except MlflowException as error:
        say(f"MLflow was not reached: the same command sends it and trains nothing again ({problem_of(error)})")
    if as_json:
        rows = [table.as_dict() | (inner_steps.as_dict(table) if by_step else {}) for table in tables]
        print(json.dumps({"rows": rows, "problems": problems}))  # noqa: T201
    elif tables:
        console().print(as_table(tables))
        if by_step is not None:
            console().print(inner_steps.as_table(tables))
        say(f"kept in {tables[0].folder.parent} and in MLflow's experiment 'final runs' (raymeta ui)")
    if picture is not None and tables:
        draw(tables, picture)
        say(f"drew {picture}")
    if by_step is not None and tables:
        inner_steps.draw(tables, by_step)
        say(f"drew {by_step}")
    if problems:
        raise RunFailed("; ".join(problems))


def _configs_for_final(
    words: list[str], task: str | None, preset: str | None
) -> tuple[dict[str, "TrialConfig"], dict[str, dict[str, Any]]]:
    """Configs and their provenances by name, from files and from methods' presets; `key=value` words change them all.

    What stands in a method's own section changes that method only.
    """
    from raymeta import registry
    from raymeta.config import parse_trial
    from raymeta.report.export import read_export
    from raymeta.schema import merge, parse_overrides
    from raymeta.study.plan.plan import make_config

    overrides = [word for word in words if "=" in word.split(":")[0]]
    sources = [word for word in words if word not in overrides]
    if not sources:
        raise UserError(f"final: found no config but {' '.join(words)}; name methods or .yaml files")
    configs: dict[str, TrialConfig] = {}
    provenances: dict[str, dict[str, Any]] = {}
    methods = {_method_of(source) for source in sources} & set(registry.names("method"))
    for source in sources:
        path, method = Path(source), _method_of(source)
        own = [word for word in overrides if word.split(".")[0] not in methods - {method}]
        provenance: dict[str, Any] = {}
        if path.suffix not in (".yaml", ".yml") and not path.exists():
            config = make_config(source, task, preset, own)
            name = source
        elif task or preset:
            raise UserError(f"{source}: --task and --preset are for a method's name; a file has its own task")
        else:
            base, provenance = read_export(path)
            name, config = path.stem, parse_trial(merge(base.as_dict(), parse_overrides(own)), source)
            provenance = {**provenance, "file": source}
        if name in configs:
            raise UserError(f"{source}: a config of the name '{name}' is given twice")
        configs[name], provenances[name] = config, provenance
    return configs, provenances


def _method_of(source: str) -> str:
    from raymeta.config import split_settings

    return split_settings(source)[0].split("+")[0]
