"""TensorBoard's event files of a study: a run for each trial, with its curves, its hyperparameters and its config.

    <studies>/<name>/tensorboard/0007/events.out.tfevents.raymeta

A file's bytes follow from the record alone, and grow at their end as it does. So whatever was copied before, and
wherever that was killed: what is missing at the end is appended, and no point is there twice.
"""

import shlex
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymeta.registry import tracker
from raymeta.storage.files import dump_yaml, write_atomically
from raymeta.study.copies.copy import Copy, Trial
from raymeta.study.record.record import StudyRecord

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

FILE = "events.out.tfevents.raymeta"


@tracker("tensorboard")
class TensorBoard(Copy):
    """Event files in the study's folder."""

    module = "tensorboard"

    def take(self, trial: Trial) -> None:
        if not trial.points:  # a run begins with its first round: before it nothing says when that was
            return
        path = self.record.folder / "tensorboard" / f"{trial.number:04d}" / FILE
        content = events_of(trial)
        try:
            there = path.read_bytes()
        except FileNotFoundError:
            there = b""
        if there == content:
            return
        if isinstance(path, Path) and there and content.startswith(there):
            with open(path, "ab") as file:  # TensorBoard reads on from where it was
                file.write(content[len(there) :])
        else:
            write_atomically(path, content)

    def close(self) -> None:
        pass

    @staticmethod
    def where(record: StudyRecord) -> str:
        return f"tensorboard --logdir {shlex.quote(str(record.folder / 'tensorboard'))}"


def events_of(trial: Trial) -> bytes:
    """The event file of a trial: an older state of it has the beginning of these bytes."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = BytesIO()
    writer, begun = RecordWriter(content), trial.points[0].at

    def write(event: Any) -> None:
        writer.write(event.SerializeToString(deterministic=True))

    write(Event(wall_time=begun, file_version="brain.Event:2"))
    write(Event(wall_time=begun, summary=_begin(trial, begun)))
    points = [*trial.points, *([trial.fresh] if trial.fresh and trial.ended else [])]
    for number, point in enumerate(points):
        if number == len(trial.points):
            write(Event(wall_time=trial.points[-1].at, summary=_end(trial)))
        values = [Summary.Value(tag=tag, simple_value=score) for tag, score in point.scores.items()]
        write(Event(wall_time=point.at, step=point.steps, summary=Summary(value=values)))
    if trial.ended and len(points) == len(trial.points):
        write(Event(wall_time=trial.points[-1].at, summary=_end(trial)))
    return content.getvalue()


def _begin(trial: Trial, at: float) -> "Summary":
    """What was searched, for the page HParams, and the whole config as text."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    start = SessionStartInfo(start_time_secs=at, group_name=f"trial {trial.number}")
    for key, value in {**trial.searched, "start": trial.label}.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = str(value)
    lines = dump_yaml(trial.config).splitlines()
    text = TensorProto(
        dtype=DT_STRING,
        string_val=["\n".join(f"    {line}" for line in lines).encode()],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    return Summary(
        value=[
            _hparams(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
            Summary.Value(tag="config", metadata=about, tensor=text),
        ]
    )


def _end(trial: Trial) -> "Summary":
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    end = SessionEndInfo(status=STATUS_SUCCESS if trial.well else STATUS_FAILURE, end_time_secs=trial.points[-1].at)
    return Summary(value=[_hparams(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))])


def _hparams(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, PLUGIN_NAME

    data.version = PLUGIN_DATA_VERSION
    content = data.SerializeToString(deterministic=True)
    about = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content)
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=about))
