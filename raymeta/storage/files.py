"""Files as everything here reads and writes them: strict YAML, atomic writes, and where folders lie."""

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

import yaml

from raymeta.errors import UserError
from raymeta.storage.places import AnyPath, RemotePath, any_path, expanded


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key said twice is an error, and numbers are those of YAML 1.2: `1e-3` is one, `010` is ten
    and `1:30` is a word.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts quotes round what `_Loader` would take for a number."""


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_NUMBERS = {
    _INT: r"^(?:[-+]?\d+|0x[0-9a-fA-F]+|0o[0-7]+)$",
    _FLOAT: r"^(?:[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
}

for _kind in (_Loader, _Dumper):
    # Made anew per class: PyYAML keeps implicit resolvers in a class attribute shared with SafeLoader and SafeDumper.
    _kind.yaml_implicit_resolvers = {
        first: [one for one in known if one[0] not in _NUMBERS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _tag, _form in _NUMBERS.items():
        _kind.add_implicit_resolver(_tag, re.compile(_form), list("-+.0123456789"))
_Loader.add_constructor(_INT, lambda loader, node: int(node.value, 0 if node.value[:2] in ("0x", "0o") else 10))


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML from a stranger: nothing in it is executed.

    Raises:
        UserError: the text is not YAML; the sentence names `source` and the place.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{source}: not valid YAML{place}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:  # characters that YAML forbids
        raise UserError(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise UserError(f"{source}: not valid YAML: nested too deeply") from None
    except (ValueError, LookupError, AttributeError) as error:  # PyYAML, at `2024-13-45` or `!!bool maybe`
        raise UserError(f"{source}: not valid YAML: a value does not fit its type: {error}") from error


def read_yaml(path: AnyPath) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        UserError: the file is missing, unreadable, not YAML or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise missing(path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    return data


def missing(path: AnyPath, what: str = "file") -> UserError:
    """The error for a path of a user's that is not there: which part of it is missing, and what was probably meant.

    Args:
        path: as it is to be shown.
        what: that was expected there: "file" or "folder".
    """
    if not isinstance(path, Path):
        return UserError(f"{path}: no such {what}{_near(path, path.parent, what)}")
    gone, below = path, Path()
    try:
        if path.exists():
            return UserError(f"{path}: is a {'folder' if path.is_dir() else 'file'}, where a {what} is expected")
        while not gone.parent.exists() and gone.parent != gone:
            gone, below = gone.parent, gone.name / below
    except OSError as error:  # a name that is too long, say
        return UserError(f"{path}: no such {what}: {error.strerror}")
    if not gone.parent.is_dir():
        return UserError(f"{path}: no such {what}: {gone.parent} is a file")
    where = f": there is no folder {gone}" if gone != path else ""
    return UserError(
        f"{path}: no such {what}{where}{_near(gone, gone.parent, what if gone == path else 'folder', below)}"
    )


def _near(gone: AnyPath, folder: AnyPath, what: str, below: Path | None = None) -> str:
    """What lies in the folder under a name that is near, and has the same ending if it is a file."""
    with suppress(OSError):
        there = [other for other in folder.iterdir() if not other.name.startswith(".")]
        if what == "folder":
            names = [other.name for other in there if not isinstance(other, Path) or other.is_dir()]
        else:
            alike = (".yaml", ".yml") if gone.name.endswith((".yaml", ".yml")) else (PurePath(gone.name).suffix,)
            names = [other.name for other in there if other.name.endswith(alike)]
        if near := get_close_matches(gone.name, names, n=1, cutoff=0.7):
            meant = gone.with_name(near[0])
            return f", did you mean '{meant / below if below and isinstance(meant, Path) else meant}'?"
    return ""


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML text in the order of the mapping; `parse_yaml` gives the same data back."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def yaml_line(key: str, value: Any) -> str:
    """`key: value` as a line of YAML."""
    text: str = yaml.dump(
        {key: value}, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return text.strip()[1:-1]


_UMASK = os.umask(0)
os.umask(_UMASK)


def write_atomically(path: AnyPath, content: bytes | str) -> None:
    """Write a file whole or not at all: a reader or a crash never sees half of it.

    Raises:
        OSError: as the file system says (a full disk, say); the old file is then still there.
    """
    data = content.encode() if isinstance(content, str) else content
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp makes it private; colleagues share studies
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Where packed data sets are kept: `$RAYMETA_CACHE`, or the system's cache folder for raymeta."""
    if named := os.environ.get("RAYMETA_CACHE"):
        return expanded(named).resolve()
    import platformdirs

    return Path(platformdirs.user_cache_dir("raymeta"))


def studies_folder() -> AnyPath:
    """Where studies and final runs live: `$RAYMETA_STUDIES`, a path or a store's URI, or `studies` in this folder.

    Raises:
        UserError: it is a URI of no store that there could be.
    """
    return any_path(os.environ.get("RAYMETA_STUDIES", "studies"))


def mlflow_folder() -> Path:
    """Where the embedded MLflow keeps its database and files: with the studies, or where they are on a store, in the
    user's data folder of this machine, one for each place of studies.
    """
    studies = studies_folder()
    if isinstance(studies, Path):
        return studies
    import platformdirs

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{studies.store}/{studies.path}").strip("-")
    return Path(platformdirs.user_data_dir("raymeta")) / "mlflow" / name
