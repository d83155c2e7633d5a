"""HTTP requests that give up on hosts that are silent or too slow."""

import http.client
import io
import time
import urllib.request
from collections.abc import Mapping
from functools import partial
from typing import Any

__all__ = ["open_url"]

_LEAST_BYTES_PER_SECOND = 1024


def open_url(url: str, *, headers: Mapping[str, str], timeout: float, patience: float) -> Any:
    """Open a URL for reading.

    Args:
        url: The address, of scheme http or https.
        headers: Headers of the request.
        timeout: Seconds after which a host that sends nothing is given up.
        patience: Seconds after which a host that has sent less than 1 KiB per second is given up,
            be it in the headers or in the body.

    Returns:
        The response; reading it raises `TimeoutError` for a silent host and `OSError` for a slow
        one.

    Raises:
        urllib.error.URLError: If the host cannot be reached or reports an error.
        OSError: If the host is silent or too slow.
    """
    opener = urllib.request.build_opener(_HTTPHandler(patience), _HTTPSHandler(patience))
    return opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=timeout)


class _PacedReader(io.RawIOBase):
    """Reads a socket and raises `OSError` if too little arrives within the patience."""

    def __init__(self, raw: io.RawIOBase, patience: float) -> None:
        self._raw = raw
        self._patience = patience
        self._start = time.monotonic()
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        self._received += count or 0
        now = time.monotonic()
        if count and now - self._start >= self._patience:
            least = round(_LEAST_BYTES_PER_SECOND * self._patience)
            if self._received < least:
                raise OSError(
                    f"the host is too slow: expected {least:,} bytes within {self._patience:g} "
                    f"seconds, got {self._received:,}"
                )
            self._start, self._received = now, 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _response(sock: Any, *args: Any, patience: float, **options: Any) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(sock, *args, **options)
    response.fp = io.BufferedReader(_PacedReader(response.fp.detach(), patience))
    return response


class _Paced(urllib.request.AbstractHTTPHandler):
    def __init__(self, patience: float) -> None:
        super().__init__()
        self._patience = patience

    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> Any:
        def connect(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
            connection = http_class(*args, **kwargs)
            connection.response_class = partial(_response, patience=self._patience)
            return connection

        return super().do_open(connect, req, **options)


class _HTTPHandler(_Paced, urllib.request.HTTPHandler):
    pass


class _HTTPSHandler(_Paced, urllib.request.HTTPSHandler):
    pass
