"""A real S3 server on loopback, from PyPI: moto's."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

KEYS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",  # else machines without keys are asked for theirs
}


@contextmanager
def s3_server() -> Iterator[str]:
    """The URI of an empty bucket."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileSystem

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in KEYS.items():
            patch.setenv(name, value)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            query = f"endpoint_override={quote(f'{host}:{port}', safe='')}&scheme=http&region=us-east-1"
            files, _ = FileSystem.from_uri(f"s3://studies/?{query}&allow_bucket_creation=true")
            files.create_dir("studies")
            yield f"s3://studies?{query}"
        finally:
            server.stop()
