"""`raymeta search`, `resume` and `extend`, and what they say at the end."""

import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from raymeta.cli import completion as complete
from raymeta.cli.common import (
    Also,
    Choose,
    DataRoot,
    Json,
    Name,
    OwnSpace,
    Pack,
    Preset,
    ShipData,
    Slots,
    Spec,
    Task,
    Words,
    end_undisturbed,
    show,
    show_json,
)

if TYPE_CHECKING:
    from raymeta.api.studies import Study


def search(
    spec: Spec,
    words: Words = None,
    task: Task = None,
    preset: Preset = None,
    own_space: OwnSpace = None,
    name: Annotated[Optional[str], typer.Option(help="The study's name; by default made from the rest.")] = None,  # noqa: UP045
    choose: Choose = None,
    trials: Annotated[Optional[int], typer.Option("--trials", "-n", min=1, help="As study.trials=N.")] = None,  # noqa: UP045
    warm_start: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="STUDY",
            help="Begin with the best configs of another study, as far as they fit.",
            autocompletion=complete.studies,
        ),
    ] = None,
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    slots: Slots = None,
    pack: Pack = None,
    also: Also = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, with times, and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Search the hyperparameters of a method.

    Example: raymeta search maml+dropgrad --task omniglot-5w1s -n 24 maml.inner_steps=5

    Example: raymeta search maml maml.inner_lr=0.01..0.5:log maml.inner_steps=1..5

    Example: raymeta search maml --choose dropgrad,metadropout,mgaug,none
    """
    from raymeta.api import searching

    if dry_run:
        preview = searching.preview(
            spec, task, trials=trials, space=own_space, overrides=words, preset=preset, choose=choose,
            name=name, warm_start=warm_start, data_root=data_root, slots=slots, also=also or (),
        )  # fmt: skip
        if as_json:
            show_json(preview.as_dict())
        else:
            from raymeta.report.tables import preview_table

            show(preview_table(preview))
        return
    study = searching.search(
        spec, task, trials=trials, space=own_space, overrides=words, preset=preset, choose=choose, name=name,
        warm_start=warm_start, data_root=data_root, ship_data=ship_data, slots=slots,
        pack=pack, also=also or (), quiet=as_json, command=" ".join(["raymeta", *sys.argv[1:]]),  # type: ignore[arg-type]  # parsed
    )  # fmt: skip
    _report(study, as_json)


def resume(
    name: Name,
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    slots: Slots = None,
    pack: Pack = None,
    also: Also = None,
    as_json: Json = False,
) -> None:
    """Go on with a study from where it was left or killed; finished trials are not run again.

    Example: raymeta resume maml+dropgrad-glyphs
    """
    from raymeta.api.studies import open_study

    study = open_study(name).resume(
        data_root=data_root, ship_data=ship_data, slots=slots, pack=pack,  # type: ignore[arg-type]
        also=also or (), quiet=as_json,
    )  # fmt: skip
    _report(study, as_json)


def extend(
    name: Name,
    trials: Annotated[int, typer.Option("--trials", "-n", min=1, help="How many more.")],
    data_root: DataRoot = None,
    ship_data: ShipData = False,
    slots: Slots = None,
    pack: Pack = None,
    also: Also = None,
    as_json: Json = False,
) -> None:
    """Add trials to a study and go on with it.

    Example: raymeta extend maml+dropgrad-glyphs -n 20
    """
    from raymeta.api.studies import open_study

    study = open_study(name).extend(
        trials, data_root=data_root, ship_data=ship_data, slots=slots, pack=pack,  # type: ignore[arg-type]
        also=also or (), quiet=as_json,
    )  # fmt: skip
    _report(study, as_json)


def _report(study: "Study", as_json: bool) -> None:
    """The results of a session on standard output, remarks on standard error.

    Exit code 130 or 143: it was asked to leave, by Ctrl-C or by SIGTERM. 1: no trial has a score.
    """
    from raymeta.report.ending import figures, remarks, results
    from raymeta.report.remarks import say

    assert study.session is not None
    end_undisturbed()
    if as_json:
        show_json(figures(study.record, study.session))
    else:
        for result in results(study.record):
            show(result)
    for remark in remarks(study.record, study.session, efficiency=not as_json):
        say(remark)
    if study.session.exit_code:
        raise typer.Exit(study.session.exit_code)
    trials = study.trials()
    if trials and not any(trial.best(study.record.metric) for trial in trials):
        raise typer.Exit(1)
