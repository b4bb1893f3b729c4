"""Final runs: what is read back from their folders. Whole ones: tests/study/run/test_search.py."""

from pathlib import Path

import pytest

from raymeta.errors import UserError
from raymeta.finals.runs import _Run


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"seed": 1, "values": [0.5]}', '{"seed": 1,'])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=rf"^{tmp_path}/result.json: not the result of a final run; without it "):
        _Run("maml", 0, {}, tmp_path, by_step=False).result()
