"""An object store on this machine: moto's S3, in a thread of the tests, with a bucket in it."""

import contextlib
import logging
import os
import urllib.request

import pytest

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def serving():
    """Serve S3 on the loopback, and tell this process and those it starts where."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[stores]'")
    server = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[test]'")
    import fsspec

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        # moto's buckets are those of the process, whichever server made them
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        # fsspec keeps what it has opened: one of an earlier server, or of a test without credentials, is another's
        s3fs.S3FileSystem.clear_instance_cache()
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()
