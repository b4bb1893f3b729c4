"""A search that is ended at any moment of its start: while it imports, while Ray starts, as the study is made."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from study.driving import COMMAND, TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

EVERY_S, UNTIL_S = 0.4, 10.0


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGHUP, 1), (signal.SIGINT, 2)])
def test_it_ends_in_order_with_a_line(tmp_path: Path, number: int, times: int) -> None:
    for moment in range(1, round(UNTIL_S / EVERY_S)):
        process = subprocess.Popen(
            [COMMAND, "search", *TINY, "--slots", "1", "--name", f"at{moment}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | {"RAYMETA_STUDIES": str(tmp_path)},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background
        )  # fmt: skip
        time.sleep(moment * EVERY_S)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.1)
        _, err = process.communicate(timeout=120)
        # A second Ctrl-C while Python itself ends is the system's, of which a shell says 130 as well.
        assert process.returncode in ((130, -signal.SIGINT) if number == signal.SIGINT else (143,)), (moment, err)
        assert "Traceback" not in err, (moment, err)
        said = err.splitlines()[-1] if err else ""
        made = (tmp_path / f"at{moment}").exists()
        if made:
            assert said == f"go on with: raymeta resume at{moment}", (moment, err)
        elif number != signal.SIGINT or said:  # Ctrl-C among imports needs no word
            assert said.startswith(("left before", "go on with: the same command")), (moment, err)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".at")]
