"""What the best trial's learner predicts on validation tasks, drawn."""

from raymeta.errors import UserError
from raymeta.problem import open_problem
from raymeta.problems.examples import DrawsExamples
from raymeta.report.page.content import Figure, Grid, Section
from raymeta.report.page.findings import Findings

TASKS, COLUMNS = 4, 8


def examples(found: Findings) -> Section | None:
    """Query examples of the first validation tasks with what the best trial's learner makes of them.

    Of problems that draw their examples, and only where the trial's weights and the data are at hand.
    """
    if not isinstance(open_problem(found.plan.base.task), DrawsExamples) or found.best is None:
        return None
    try:
        return _drawn(found, found.best.number)
    except UserError as error:
        return Section("examples", "Examples", [f"None are drawn: {error}."])


def _drawn(found: Findings, trial: int) -> Section:
    import torch  # imported here: reports of other problems do without it

    from raymeta.analysis import Subject
    from raymeta.report.examples import asked, drawn_examples, rows_of, some_of
    from raymeta.training.loading import learner_with, read_weights

    path = found.record.trial_folder(trial) / "checkpoint.pt"
    config, top = read_weights(path, torch.device("cpu"))
    if not top:
        raise UserError(f"{path}: nothing was validated")
    problem = open_problem(config.task)
    learner = learner_with(top[0]["weights"], config, problem, torch.device("cpu"), path)
    subject = Subject(learner, config, problem.bank("validation", config.task.bank_seed))
    shown = some_of(asked(subject, TASKS), COLUMNS)
    rows = rows_of(subject, shown)
    title = f"Trial {trial} on the first {TASKS} validation tasks"
    grid = Grid("examples", title, list(rows[0]), [list(row.values()) for row in rows], long=True)
    alt = "Query examples, a row for each task, with what is there and what the adapted learner predicts."
    figure = Figure(alt, lambda: drawn_examples(subject, shown, TASKS, COLUMNS), grid)
    return Section("examples", "Examples", [alt], figures=[figure])
