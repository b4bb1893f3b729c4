"""Files of tensors and plain data: written whole or not at all, read without executing anything in them."""

import io
import zipfile
from typing import Any

import torch

from raymeta.errors import StorageError, UserError
from raymeta.storage.files import write_atomically
from raymeta.storage.places import AnyPath, RemotePath, rename


def write(path: AnyPath, state: dict[str, Any]) -> None:
    """Write a state; a crash leaves the file that was there.

    Raises:
        OSError: as the file system says.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def write_keeping(path: AnyPath, state: dict[str, Any]) -> None:
    """Write a state; the one that was there is kept as `previous`. A crash leaves at least one of them whole.

    Raises:
        OSError: as the file system says.
    """
    if isinstance(path, RemotePath):  # a put is atomic there, and a rename is not
        if path.exists():
            path.copy_to(path.with_name(f"previous-{path.name}"))
        write(path, state)
        return
    fresh = path.with_name(f"next-{path.name}")
    write(fresh, state)
    if path.exists():
        rename(path, previous(path).name)
    fresh.replace(path)


def previous(path: AnyPath) -> AnyPath:
    """Where the state is that was there before the last `write_keeping`."""
    return path.with_name(f"previous-{path.name}")


def read(path: AnyPath, device: torch.device) -> Any:
    """The state in a file, its tensors on a device.

    Raises:
        UserError: the file is not there, not a checkpoint, or damaged.
    """
    try:
        data = path.read_bytes()
    except StorageError:  # a store that is away says nothing of the file
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise zipfile.BadZipFile  # torch never packs them: it would be a bomb
            if archive.testzip():  # torch does not look at the checksums
                raise zipfile.BadZipFile
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:  # there is no end to what damaged or foreign bytes can raise
        raise UserError(f"{path}: not a checkpoint, or a damaged one") from error
