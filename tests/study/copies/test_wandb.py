"""The real wandb in its offline mode: what `wandb sync` would send is what the record says, each step once."""

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from study.driving import give_all, noted, tiny_record
from study.record.test_record import entry

from raymeta.study.copies.copy import Keeper
from raymeta.study.copies.wandb import WeightsAndBiases
from raymeta.study.record.record import StudyRecord

BLOCK = 32_768


def records(path: Path) -> Iterator[Any]:
    """A run's file: a log as LevelDB has it, of protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, message = path.read_bytes(), 7, b""  # behind a header
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found = Record()
            found.ParseFromString(message)
            message = b""
            yield found


def sent(home: Path) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]]:
    """Of each run its config, what was logged, and its summary; every run is there once."""
    found = {}
    for path in sorted(home.glob("wandb/offline-run-*/run-*.wandb")):
        config, history, summary, name = {}, [], {}, ""
        for one in records(path):
            if one.WhichOneof("record_type") == "run":
                name = one.run.display_name
                assert one.run.run_group == "one"
                config = {item.key: json.loads(item.value_json) for item in one.run.config.update}
            elif one.WhichOneof("record_type") == "history":
                items = {
                    ".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.history.item
                }
                history.append({key: value for key, value in items.items() if key[0] != "_" or key == "_step"})
            elif one.WhichOneof("record_type") == "summary":
                summary |= {item.key: json.loads(item.value_json) for item in one.summary.update}
        assert name not in found
        found[name] = (config, history, summary)
    return found


def expected(record: StudyRecord) -> dict[str, list[dict[str, Any]]]:
    keys = ("train_loss", "val_mse", "val_ci95", "val_loss", "seconds")
    return {
        f"trial {trial.number}": [
            {"_step": one["outer_steps"]} | {key: one[key] for key in keys if key in one} for one in trial.rounds
        ]
        for trial in record.trials()
        if trial.rounds
    }


KILLED = """
import os, signal
from raymeta.study.copies.copy import Keeper
from raymeta.study.copies.wandb import WeightsAndBiases
from raymeta.study.record.home import open_study
Keeper(WeightsAndBiases(open_study("one"))).look()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_every_step_once_whatever_was_begun_before(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    record = tiny_record("one", "study.trials=2", "study.finalists=1")
    noted(record, 3.0, 2.0)
    record.ask()
    record.add_round(1, entry(2, 4.0))
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    record.add_round(1, entry(4, 3.5))
    second = Keeper(WeightsAndBiases(StudyRecord.load(record.folder)))
    second.look()
    record.add_round(1, entry(6, None, last=True))
    record.finish(1)
    second.look()
    second.look()
    give_all(record, t0=[1.0, 2.0])
    second.look()
    second.copy.close()
    found = sent(studies)
    assert {name: history for name, (_, history, _) in found.items()} == expected(record)
    config, _, summary = found["trial 0"]
    assert (summary["reevaluated_val_mse"], summary["state"]) == (1.5, "completed")
    assert config["method"] == "maml"
    assert config["searched"] == record.trial(0).point
    before = sorted(studies.glob("wandb/offline-run-*"))
    third = Keeper(WeightsAndBiases(record))  # nothing is lacking: nothing is begun
    third.look()
    third.copy.close()
    assert sorted(studies.glob("wandb/offline-run-*")) == before
