"""The command line without a search: wrong input in one sentence, help, dry run, spaces and data sets."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study.conftest import studies  # noqa: F401
from study.driving import COMMAND, TINY, tiny_record

import raymeta
from raymeta import cli, registry
from raymeta.storage.files import write_atomically

Run = Callable[..., tuple[int, str, str]]
SINUSOID = ["search", "maml+dropgrad", "--task", "sinusoid-5s"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The command in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["raymeta", *words])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code or 0, out, err

    return run


WRONG = {
    "method": (["search", "mamll"], "unknown method 'mamll': did you mean 'maml'?"),
    "regularizer": (["search", "maml+dropgrd"], "unknown regularizer 'dropgrd': did you mean 'dropgrad'?"),
    "twice": (["search", "maml+dropgrad+dropgrad"], "the regularizer 'dropgrad' is given twice"),
    "key": ([*SINUSOID, "maml.inner_lrr=1"], "unknown key 'maml.inner_lrr', did you mean 'maml.inner_lr'?"),
    "section": ([*SINUSOID, "mmal.inner_lr=1"], "unknown key 'mmal', did you mean 'maml'?"),
    "type": ([*SINUSOID, "maml.inner_lr=fast"], "maml.inner_lr: found 'fast'"),
    "range": ([*SINUSOID, "regularizers.dropgrad.rate=1.5"], "regularizers.dropgrad.rate: found 1.5"),
    "option": (
        [*SINUSOID, "maml.order=frist"],
        "found 'frist': not a value of this key, did you mean 'first'?",
    ),
    "infinite": ([*SINUSOID, "maml.inner_lr=.inf"], "maml.inner_lr: found inf"),
    "no value": ([*SINUSOID, "maml.inner_lr"], "'maml.inner_lr': expected key=value"),
    "not yaml": ([*SINUSOID, "maml.inner_lr=["], "not valid YAML"),
    "task": (["search", "maml", "--task", "omniglot-5w"], "--task omniglot-5w: expected DATASET-<ways>w<shots>s"),
    "data set": (
        ["search", "maml", "--task", "omniglott-5w1s"],
        "unknown data set 'omniglott': did you mean 'omniglot'?",
    ),
    "preset": (["search", "maml", "--preset", "smok"], "unknown preset 'smok': did you mean 'smoke'?"),
    "budget": (
        [*SINUSOID, "budget.outer_steps=1001"],
        "(1001) must be a multiple of validate_every (1000)",
    ),
    "first rung": ([*SINUSOID, "study.first_rung=1"], "study.first_rung (1) must be a multiple of"),
    "rung above": ([*SINUSOID, "study.first_rung=80000"], "is above budget.outer_steps (70000)"),
    "study key": ([*SINUSOID, "study.trails=2"], "unknown key 'trails', did you mean 'trials'?"),
    "no trials": ([*SINUSOID, "study.trials=0"], "study: trials: found 0"),
    "name": ([*SINUSOID, "--name", "../x"], "'../x' cannot name a study"),
    "reserved name": ([*SINUSOID, "--name", "finals"], "'finals' cannot name a study"),
    "curves have no root": ([*SINUSOID, "--data-root", "."], "sinusoid is computed and reads no data"),
    "no archives": (
        ["search", "maml", "--task", "omniglot-5w1s", "--data-root", "."],
        "neither images_background.zip",
    ),
    "no root": (["data", "prepare", "omniglot", "--data-root", "nowhere"], "nowhere: no such folder"),
    "curves have no ways": (
        ["search", "maml", "--task", "sinusoid-5w1s"],
        "expected sinusoid-<shots>s, as in sinusoid-10s",
    ),
    "no study": (["resume", "nosuch"], "no study 'nosuch' in"),
    "study by path": (["resume", "../nosuch"], "'../nosuch' is not a study's name"),
    "no study to export": (["export", "nosuch"], "no study 'nosuch' in"),
    "no file": (["final", "nosuch.yaml"], "nosuch.yaml: no such file"),
    "not a file": (["final", "."], ".: is a folder, where a file is expected"),
    "no config": (["final", "maml.inner_lr=1"], "final: found no config but maml.inner_lr=1"),
    "same twice": (["final", "maml", "maml", "--task", "sinusoid-5s"], "the name 'maml' is given twice"),
    "not a picture": (["final", "maml", "--picture", "curves.jpeg"], "its name is to end in .png, .svg or .pdf"),
    "no such test data": (
        ["final", "maml", "--task", "glyphs-5w1s", "--test-data", "omniglt"],
        "unknown data set 'omniglt': did you mean 'omniglot'?",
    ),
    "test data in colour": (
        ["final", "maml", "--task", "glyphs-5w1s", "--test-data", "cub"],
        "task.test_dataset: found 'cub', whose images are colour: models of glyphs take grey ones",
    ),
    "another's key": (["final", "maml", "anil", "l2f.noise=first"], "unknown key 'l2f', allowed: budget"),
    "key without its section": ([*SINUSOID, "inner_lr=0.1"], "unknown key 'inner_lr', did you mean 'maml.inner_lr'?"),
    "regularizer's key without its section": (
        [*SINUSOID, "drpgrad.rate=0.1"],
        "unknown key 'drpgrad', did you mean 'regularizers.dropgrad'?",
    ),
    "page": (["methods", "drpgrad"], "unknown method or regularizer 'drpgrad': did you mean 'dropgrad'?"),
    "nothing in scope": (
        ["final", "cavia+dropgrad", "--task", "sinusoid-5s", "regularizers.dropgrad.layers=head"],
        "cavia+dropgrad: cavia adapts nothing in the scope of dropgrad",
    ),
    "unknown data set": (["data", "prepare", "nosuch"], "unknown data set 'nosuch'"),
    "unknown data set to show": (["data", "show", "glyhps"], "unknown data set 'glyhps': did you mean 'glyphs'?"),
    "full key": ([*SINUSOID, "inner_lr=0.1"], "unknown key 'inner_lr', did you mean 'maml.inner_lr'?"),
    "log at 0": ([*SINUSOID, "maml.inner_lr=0..1:log"], "a log range must lie above 0, found [0.0, 1.0]"),
    "own space": ([*SINUSOID, "--space", "nosuch.yaml"], "nosuch.yaml: no such file"),
    "own preset": (["search", "maml", "--preset", "nosuch.yaml"], "nosuch.yaml: no such file"),
    "range of a final run": (
        ["final", "maml", "maml.inner_lr=0.1..1", "--task", "sinusoid-5s"],
        "a final run searches nothing",
    ),
    "no such analysis": (
        ["final", "maml", "--task", "sinusoid-5s", "--analyse", "ckaa"],
        "unknown analysis 'ckaa': did you mean 'cka'?",
    ),
    "no such setting": (["final", "maml", "--analyse", "cka:taks=3"], "cka: unknown key 'taks', did you mean 'tasks'?"),
    "no rates": (
        ["final", "maml", "--task", "sinusoid-5s", "--analyse", "cka,rates"],
        "rates: maml learns or makes nothing for its inner steps here",
    ),
    "analyse what": (["analyse"], "analyse: name a final run; raymeta analyse --list says which analyses there are"),
    "no final run": (["analyse", "nosuch", "cka"], "nosuch: no final run that has been tested; allowed: none"),
    "space": (["space", "maml+dropgra"], "unknown regularizer 'dropgra': did you mean 'dropgrad'?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence(case: str, run: Run, studies: Path) -> None:  # noqa: F811
    words, part = WRONG[case]
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("raymeta: ")
    assert part in line
    assert not studies.exists()


def test_what_does_not_fit_together_is_said_before_there_is_a_study(run: Run, studies: Path, glyphs: Any) -> None:  # noqa: F811
    code, _, err = run("search", "maml", "--task", "glyphs-metadataset", "engine.tasks=vmap")
    assert code == 2
    assert err == (
        "raymeta: engine.tasks: found 'vmap', but glyphs-metadataset has tasks of different shapes; "
        "allowed: auto, loop\n"
    )
    assert not studies.exists()


def test_more_ways_than_classes(run: Run, studies: Path, glyphs: Any) -> None:  # noqa: F811
    code, out, err = run("search", "maml", "--task", "glyphs-5000w1s")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("raymeta: ")
    assert "5000" in line
    assert not studies.exists()


FILES = {
    "method: mamm\n": "the key 'method'|unknown method 'mamm': did you mean 'maml'?",
    "[1, 2]\n": "expected a mapping of keys to values, found list",
    "method: [\n": "not valid YAML at line",
    "method: maml\nmaml: {inner_lrr: 1}\n": "unknown key 'maml.inner_lrr', did you mean 'maml.inner_lr'?",
    "method: maml\nprovenance: 3\n": "provenance: found 3: expected a section of keys",
    "!!python/object/apply:os.mkdir [made]\n": "not valid YAML",
}


@pytest.mark.parametrize("text", FILES)
def test_a_wrong_file_is_one_sentence(text: str, run: Run, studies: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "best.yaml").write_text(text)
    code, _, err = run("final", "best.yaml")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("raymeta: ")
    assert FILES[text].split("|")[-1] in line
    assert os.listdir(tmp_path) == ["best.yaml"]


def test_a_study_that_has_nothing_to_export(run: Run, studies: Path) -> None:  # noqa: F811
    record = tiny_record("tiny")
    assert run("export", "tiny")[2] == "raymeta: the study 'tiny' has no validation of any trial yet\n"
    record.ask()
    assert run("export", "tiny", "--trial", "0")[2] == "raymeta: the study 'tiny' has no validation of trial 0 yet\n"
    code, _, err = run("export", "tiny", "--trial", "7")
    assert (code, err) == (2, "raymeta: the study 'tiny' has no trial 7: allowed are 0 to 0\n")
    assert not Path("best.yaml").exists()


def test_a_study_whose_files_are_damaged(run: Run, studies: Path) -> None:  # noqa: F811
    record = tiny_record("tiny")
    write_atomically(record.folder / "study.yaml", "[")
    code, _, err = run("resume", "tiny")
    assert code == 2
    assert err.startswith(f"raymeta: {record.folder / 'study.yaml'}: not valid YAML")
    assert len(err.splitlines()) == 1


# Help


COMMANDS = [
    "search", "resume", "extend", "ls", "status", "export", "final", "predict", "ui", "space", "methods", "doctor",
    "data ls", "data prepare", "data check", "data show",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(command: str, run: Run) -> None:
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert command == "data ls" or f"Example: raymeta {command}" in out


def test_help_lists_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in {command.split()[0] for command in COMMANDS}:
        assert f"  {command} " in out


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([str(COMMAND), "--help"], check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.4
    code = (
        "import sys; sys.argv = ['raymeta', '--help']\nfrom raymeta.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED', {'torch', 'ray', 'optuna', 'mlflow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED set()"


@pytest.mark.parametrize("words", [("-h",), ("search", "-h"), ("data", "ls", "-h")])
def test_help_in_short(words: tuple[str, ...], run: Run) -> None:
    assert run(*words) == run(*words[:-1], "--help")


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"raymeta {raymeta.__version__}\n", "")
    done = subprocess.run([sys.executable, "-m", "raymeta", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"raymeta {raymeta.__version__}\n"


def test_ctrl_c_while_it_is_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = (
        f"import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"import raymeta.__main__ as command\nsys.path.insert(0, {str(tmp_path)!r})\ncommand.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_signals_while_python_ends_change_nothing() -> None:
    code = (
        "import atexit, os, signal, sys\nfrom raymeta.__main__ import main\nsys.argv = ['raymeta', '--version']\n"
        "for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):\n"
        "    atexit.register(os.kill, os.getpid(), number)\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"raymeta {raymeta.__version__}\n", "")


def test_a_signal_that_python_drops_is_raised_again() -> None:
    code = (
        "import os, signal, time\nfrom raymeta.cli import common\ncommon.AGAIN_S = 0.2\ncommon.hear_signals()\n"
        "class Ending:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "Ending()\ntry:\n    time.sleep(60)\nexcept BaseException as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "Terminated"


@pytest.mark.parametrize("words", [("--version",), ("ls", "--json"), ("--help",)])
def test_a_pipe_that_nobody_reads_leaves_no_traceback(words: tuple[str, ...], studies: Path) -> None:  # noqa: F811
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    for environment in (buffered, buffered | {"PYTHONUNBUFFERED": "1"}):
        closed_at_once([str(COMMAND), *words], environment)


def closed_at_once(command: list[str], environment: dict[str, str]) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


# What needs no search


@pytest.mark.parametrize("words", [["search", "maml", "--name", "it"], ["final", "maml", "--seeds", "1"]])
def test_a_home_that_can_be_none(words: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", "")
    monkeypatch.setenv("RAYMETA_STUDIES", str(tmp_path / "file" / "studies"))
    code, _, err = run(*words, "--task", "sinusoid-5s")
    assert code == 2
    assert err.endswith(f"kept there: {tmp_path / 'file'} is no folder that you may write to\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("methods >&-", 0, ""),
        ("methods >&- 2>&- <&-", 0, ""),
        ("space mamll 2>&-", 2, ""),
        ("methods > /dev/full", 1, "raymeta: the disk is full\n"),
    ],
)
def test_standard_streams_that_take_nothing(words: str, code: int, said: str) -> None:
    done = subprocess.run(["sh", "-c", f'"$0" {words}', COMMAND], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_methods(run: Run) -> None:
    code, out, err = run("methods")
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("+dropgrad ")]  # as grep would
    assert "Tseng et al." in line
    code, out, err = run("methods", "--json")
    assert (code, err, json.loads(out)["maml"]["learns"]) == (0, "", "the weights theta")
    code, out, err = run("methods", "dropgrad")
    assert (code, err) == (0, "")
    assert out.startswith("# ")
    assert "| `regularizers.dropgrad.rate` |" in out


def test_dry_run(run: Run, studies: Path) -> None:  # noqa: F811
    code, out, err = run("search", *TINY, "--dry-run")
    assert (code, err) == (0, "")
    assert "rungs at [2, 6, 18] outer steps" in out
    assert "authors' setting" in out
    assert "un-regularized" in out
    for what in ("a step takes", "time with", "at worst", "6 finalists", "disk: at most"):
        assert what in out
    code, out, _ = run("search", *TINY, "--dry-run", "--json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["rungs"], len(shown["points"]), shown["most_steps"]) == ([2, 6, 18], 8, 144)
    assert shown["usual_steps"] == 8 * 2 + 3 * 4 + 12 + 16  # the last of the un-regularized start
    assert 0 < shown["usual_hours"] < shown["worst_case_hours"]
    assert shown["disk_bytes"] > 1000
    assert (shown["finalists"], shown["finalist_s"] > 0) == (6, True)  # five, and the un-regularized start
    assert not studies.exists()


def test_space(run: Run) -> None:
    code, out, err = run("space", "maml+dropgrad", "--task", "sinusoid")
    assert (code, err) == (0, "")
    assert "regularizers.dropgrad.rate" in out
    assert "rate above 0.0" in out
    code, out, _ = run("space", "maml+dropgrad", "--task", "sinusoid", "regularizers.dropgrad.rate=0.3", "--json")
    shown = json.loads(out)
    assert code == 0
    assert len(shown["hash"]) == 12
    assert "regularizers.dropgrad.rate" not in shown["params"]
    assert "regularizers.dropgrad.noise" in shown["params"]


def test_a_space_to_edit(run: Run, tmp_path: Path) -> None:
    words = ["maml+dropgrad", "--task", "sinusoid", "maml.inner_lr=0.05..0.5", "maml.order=first"]
    code, out, err = run("space", *words, "--write", "my.yaml")
    assert (code, out) == (0, "")
    assert err == "wrote my.yaml; edit it, then: raymeta search maml+dropgrad --space my.yaml\n"
    _, before, _ = run("space", *words, "--json")
    _, after, _ = run("space", *words[:3], "--space", "my.yaml", "--json")
    one, other = json.loads(before), json.loads(after)
    assert all(one[key] == other[key] for key in ("params", "start_from", "labels", "hash"))
    assert (one["fixed"], other["fixed"]) == ({"maml.order": "command line"}, {"maml.order": "my.yaml"})
    assert (one["origins"]["maml.inner_lr"], other["origins"]["maml.inner_lr"]) == ("command line", "my.yaml")
    code, out, _ = run("space", *words[:3], "--space", "my.yaml")
    assert code == 0
    assert "fixed: maml.order first (my.yaml)" in out
    assert "the rest: --task, presets/sinusoid.yaml, defaults" in out
    code, _, err = run("space", *words, "--write", "my.yaml")
    assert (code, err) == (2, "raymeta: my.yaml is there already; name another file\n")


def test_data_sets(run: Run, glyphs: Any, tmp_path: Path) -> None:
    code, out, _ = run("data", "ls", "--json")
    rows = json.loads(out)
    assert code == 0
    assert set(rows) == set(registry.names("dataset"))
    assert (rows["glyphs"]["ready"], rows["omniglot"]["ready"]) == (True, False)
    code, out, err = run("data", "ls")
    assert (code, err) == (0, "")
    assert all(name in out for name in rows)
    code, _, err = run("data", "show", "glyphs")
    assert (code, err) == (0, "drew glyphs.png\n")
    assert (tmp_path / "glyphs.png").read_bytes().startswith(b"\x89PNG")
    code, out, err = run("data", "prepare", "sinusoid")
    assert (code, err) == (0, "")
    assert "ready: True" in out
