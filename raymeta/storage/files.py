"""Files as everything here reads and writes them: strict YAML, atomic writes, and where folders lie."""

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from raymeta.errors import UserError
from raymeta.storage.places import AnyPath, RemotePath, place


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number (YAML 1.2) and a key said twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts quotes round what `_Loader` would take for a number."""


for _kind in (_Loader, _Dumper):
    # Copied per class: PyYAML keeps implicit resolvers in a class attribute shared with SafeLoader and SafeDumper.
    _kind.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


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
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_beside(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(data).__name__}")
    return data


def _beside(path: AnyPath) -> str:
    """The YAML file of the same folder that was probably meant."""
    with suppress(OSError):
        names = [other.name for other in path.parent.iterdir() if other.suffix in (".yaml", ".yml")]
        if near := get_close_matches(path.name, names, n=1, cutoff=0.75):
            return f", did you mean '{near[0]}'?"
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
        return Path(named).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_cache_dir("raymeta"))


def studies_folder() -> AnyPath:
    """Where studies and final runs live: `$RAYMETA_STUDIES`, a path or a store's URI, or `studies` in this folder.

    Raises:
        UserError: it is a URI of no store that there could be.
    """
    return place(os.environ.get("RAYMETA_STUDIES", "studies"))


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
