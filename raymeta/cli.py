"""The `raymeta` command: a function a verb. Whatever is heavy is imported inside the verbs."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from raymeta.cli_data import DataRoot, Json, console, data_app, prepare, pretrain, say
from raymeta.errors import RunFailed, UserError

if TYPE_CHECKING:
    from raymeta.config import TrialConfig
    from raymeta.study.plan import Plan
    from raymeta.study.record import StudyRecord
    from raymeta.study.session import Session

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hyperparameter search for meta-learning and its regularizers.\n\nStart with: raymeta search maml+dropgrad",
)
app.add_typer(data_app, name="data")

Spec = Annotated[
    str, typer.Argument(help="A method and its regularizers, as in maml+dropgrad, or maml+dropgrad:noise=binary.")
]
Words = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads the annotation)
    typer.Argument(
        help="key=value of the config or of study.*, as in maml.inner_lr=0.1; a searched key is then fixed."
    ),
]
Task = Annotated[Optional[str], typer.Option(help="omniglot-5w1s, glyphs-20w1s, sinusoid-10s, …")]  # noqa: UP045
Preset = Annotated[Optional[str], typer.Option(help="Budget, rungs and settings; by default the data set's.")]  # noqa: UP045
Choose = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="Search which regularizer to add, too: dropgrad,metadropout,none."),
]
Slots = Annotated[Optional[int], typer.Option(min=1, help="Trials at a time; by default one per core or GPU share.")]  # noqa: UP045
Pack = Annotated[int, typer.Option(min=1, help="Trials per GPU.")]


@app.command()
def search(
    spec: Spec,
    words: Words = None,
    task: Task = None,
    preset: Preset = None,
    name: Annotated[Optional[str], typer.Option(help="The study's name; by default made from the rest.")] = None,  # noqa: UP045
    choose: Choose = None,
    trials: Annotated[Optional[int], typer.Option("--trials", "-n", min=1, help="As study.trials=N.")] = None,  # noqa: UP045
    data_root: DataRoot = None,
    slots: Slots = None,
    pack: Pack = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, with times, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Search the hyperparameters of a method.

    Example: raymeta search maml+dropgrad --task omniglot-5w1s -n 24 maml.inner_steps=5

    Example: raymeta search maml --choose dropgrad,metadropout,mgaug,none
    """
    started = time.time()
    from raymeta.data.store import open_dataset
    from raymeta.study.plan import make_plan
    from raymeta.study.record import StudyRecord, check_name

    if name is not None:
        check_name(name)
    overrides = [*(words or []), *([f"study.trials={trials}"] if trials else [])]
    plan = make_plan(spec, task, preset, overrides, choose)
    dataset = open_dataset(plan.base.task)
    prepare(dataset, data_root)
    for split in ("train", "validation"):
        dataset.bank(split, 0)  # too few classes or images are named now
    if dry_run:
        _dry_run(plan, as_json)
        return
    pretrain(plan.base, dataset)
    from raymeta.evaluation import metric_of
    from raymeta.files import studies_folder

    what = f"{plan.base.spec}+choice" if choose else plan.base.spec
    folder = studies_folder() / (name or _free_name(f"{what}-{task or plan.base.task.dataset}"))
    record = StudyRecord.create(folder, plan, metric_of(dataset), dataset.fingerprint)
    from raymeta.study.resources import start_ray

    given = start_ray(slots, pack)
    from raymeta.study.search import run

    say(f"study {record.name}: {plan.study.trials} trials, rungs at {plan.rungs} outer steps, in {folder}")
    _report(record, run(record, given, started=started, quiet=as_json), as_json)


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="A study.")], slots: Slots = None, pack: Pack = 4, as_json: Json = False
) -> None:
    """Go on with a study from where it was left or killed; finished trials are not run again.

    Example: raymeta resume maml+dropgrad-glyphs
    """
    started = time.time()
    from raymeta.study.record import open_study

    record = open_study(name)
    from raymeta.study.resources import start_ray

    given = start_ray(slots, pack)
    from raymeta.study.search import run

    _report(record, run(record, given, started=started, quiet=as_json), as_json)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A study.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("best.yaml"),
    trial: Annotated[Optional[int], typer.Option(min=0, help="A trial's number; by default the best.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Write a study's best config, with where it comes from, to a file that `raymeta final` reads.

    Example: raymeta export maml+dropgrad-glyphs -o best.yaml
    """
    from raymeta.study.export import export as write
    from raymeta.study.record import open_study
    from raymeta.study.tracking import find_run

    record = open_study(name)
    chosen = trial if trial is not None else (best.number if (best := record.best()) else None)
    run = find_run(record, chosen) if chosen is not None else None
    content = write(record, out, trial, run)
    if as_json:
        print(json.dumps(content))  # noqa: T201
        return
    about = content["provenance"]
    say(f"wrote trial {about['trial']} of {name} to {out}")
    say(about["against_start"])
    say(f"next: raymeta final {out} --seeds 3")


@app.command()
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
    slots: Slots = None,
    pack: Pack = 4,
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
    """
    from mlflow.exceptions import MlflowException

    from raymeta.data.store import open_dataset
    from raymeta.study import by_step as inner_steps
    from raymeta.study.final import final as run
    from raymeta.study.final_report import as_table, draw, log_final
    from raymeta.study.tracking import problem_of

    for option, path in (("--picture", picture), ("--by-step", by_step)):
        if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
            raise UserError(f"{option} {path}: expected a .png, .svg or .pdf file")
    trials, provenances = _configs_for_final(configs, task, preset)
    for name, trial in trials.items():
        dataset = open_dataset(trial.task)
        prepare(dataset, data_root)
        expected = provenances[name].get("data", {})
        if expected.get("name") == dataset.name and expected["fingerprint"] != dataset.fingerprint:
            raise UserError(
                f"{provenances[name]['file']}: was found on {dataset.name} with fingerprint "
                f"{expected['fingerprint'][:12]}, but {dataset.name} on this machine has {dataset.fingerprint[:12]}"
            )
        pretrain(trial, dataset)
    tables, problems = run(trials, list(range(seeds)), slots=slots, pack=pack, by_step=by_step is not None)
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
    from raymeta.schema import merge, parse_overrides
    from raymeta.study.export import read_export
    from raymeta.study.plan import make_config

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


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open MLflow's web interface on the studies of this folder (on loopback only).

    Example: raymeta ui --port 5001
    """
    import subprocess

    from raymeta.study.tracking import connect, tracking_uri

    connect()
    say(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri(), "--host", "127.0.0.1"]
    raise typer.Exit(subprocess.run([*command, "--port", str(port)], check=False).returncode)


@app.command()
def space(
    spec: Spec,
    words: Words = None,
    task: Task = None,
    preset: Preset = None,
    choose: Choose = None,
    as_json: Json = False,
) -> None:
    """Show what a search of a method would search, and where it would start.

    Example: raymeta space maml+dropgrad --task omniglot-5w1s
    """
    from raymeta.study.plan import make_plan

    plan = make_plan(spec, task, preset, words or [], choose)
    if as_json:
        print(json.dumps({**plan.space.as_dict(), "hash": plan.space.hash}))  # noqa: T201
        return
    from raymeta.study.tables import space_table

    console().print(space_table(plan.space))


@app.command()
def methods(
    name: Annotated[Optional[str], typer.Argument(help="One of them; without it all are listed.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """List methods and regularizers: paper, what adapts, what is learned, what a step costs; or show one's settings.

    Example: raymeta methods alfa
    """
    from raymeta.handbook import about, about_regularizers, listing, page

    if name:
        from rich.markdown import Markdown

        console().print(Markdown(page(name)))
    elif as_json:
        print(json.dumps({one.name: one.as_dict() for one in [*about(), *about_regularizers()]}))  # noqa: T201
    else:
        console().print(listing())


def _free_name(stem: str) -> str:
    from raymeta.files import studies_folder

    names = [stem, *(f"{stem}-{i}" for i in range(2, 10_000))]
    return next(name for name in names if not (studies_folder() / name).exists())


def _dry_run(plan: "Plan", as_json: bool) -> None:
    from raymeta.study.preview import preview

    shown = preview(plan)
    if as_json:
        print(json.dumps(shown.as_dict()))  # noqa: T201
    else:
        console().print(shown)


def _report(record: "StudyRecord", session: "Session", as_json: bool) -> None:
    from raymeta.study.export import against_start
    from raymeta.study.tables import score, settings

    trials, best = record.trials(), record.best()
    counts = {
        state: sum(t.state == state for t in trials)
        for state in ("completed", "pruned", "diverged", "failed", "running")
    }
    if as_json:
        found = None
        if best is not None:
            found = {"trial": best.number, **(best.best(record.metric) or {}), "config": record.config(best).as_dict()}
        figures = {
            "slot_efficiency": session.efficiency,
            "wall_s": session.wall_s,
            "first_result_s": session.first_result_s,
        }
        print(json.dumps({"study": record.name, "trials": counts, "best": found, **figures}))  # noqa: T201
    else:
        say(
            ", ".join(f"{count} {state}" for state, count in counts.items() if count)
            + f" of {record.plan.study.trials}"
        )
        if best is not None:
            say(
                f"best: trial {best.number}, validation {record.metric.name} {score(best, record.metric)}: "
                + settings(best)
            )
            say(f"      {against_start(record, best)}")
        first = f", first result after {session.first_result_s:.1f} s" if session.first_result_s else ""
        say(f"slot efficiency {session.efficiency:.2f} ({session.slots}, {session.wall_s:.0f} s{first})")
    if session.untracked:
        say(f"MLflow was not reached: `raymeta resume {record.name}` sends what it lacks ({session.untracked})")
    over = len(trials) >= record.plan.study.trials and not counts["running"]
    say(f"next: raymeta export {record.name}   |   raymeta ui" if over else f"go on with: raymeta resume {record.name}")
    if trials and not any(trial.best(record.metric) for trial in trials):
        raise typer.Exit(1)


def main() -> None:
    """The console script: bad input is one sentence and exit code 2, a run that failed one sentence and 1."""
    try:
        app()
    except UserError as error:
        say(f"raymeta: {error}")
        sys.exit(2)
    except RunFailed as error:
        say(f"raymeta: {error}")
        sys.exit(1)
