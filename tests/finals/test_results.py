"""Results of final runs as they are read back. Whole runs: test_runs.py, tests/study/run/test_search.py."""

from pathlib import Path

import pytest

from raymeta.errors import UserError
from raymeta.finals.results import read_result


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"seed": 1, "values": [0.5]}', '{"seed": 1,'])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=rf"^{tmp_path}/result.json: not the result of a final run; without it "):
        read_result(tmp_path)
