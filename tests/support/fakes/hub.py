"""A hub on the loopback, with the part of its HTTP API that downloads need.

`files` holds each model's files. A model in `refused` answers with that status and error code; the
first download of a file in `cut` breaks off in its middle.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """What is served, and the paths of the downloads that were asked for, with their ranges."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.refused: dict[str, tuple[int, str]] = {}
        self.cut: set[str] = set()
        self.downloads: list[tuple[str, str | None]] = []
        self.address = ""

    def api(self, path: str) -> object:
        """The answer of the JSON API for what comes after /api/models/."""
        owner, name, *rest = path.split("/")
        files = self.files[f"{owner}/{name}"].items()
        if rest[:1] == ["tree"]:
            return [
                {"type": "file", "path": each, "size": len(data), "oid": _etag(data)}
                for each, data in files
            ]
        siblings = [{"rfilename": each, "size": len(data)} for each, data in files]
        return {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        model = "/".join(parts[2:4] if is_api else parts[:2])
        if model in self.hub.refused or model not in self.hub.files:
            status, code = self.hub.refused.get(model, (404, "RepoNotFound"))
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": f"no {model}"})
        elif is_api:
            body = json.dumps(self.hub.api("/".join(parts[2:]))).encode()
            self._send(200, body, {"Content-Type": "application/json"})
        else:
            self._send_file("/".join(parts[4:]), self.hub.files[model])

    def _send_file(self, name: str, files: dict[str, bytes]) -> None:
        data = files[name]
        headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            self._send(200, data, headers)
            return
        wanted = self.headers["Range"]
        self.hub.downloads.append((name, wanted))
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        is_cut = name in self.hub.cut
        self.hub.cut.discard(name)
        self._send(206 if begin else 200, data[begin:], headers, is_cut=is_cut)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], is_cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.close_connection = is_cut


@contextmanager
def running_hub(cache: Path) -> Iterator[FakeHub]:
    """A hub that huggingface_hub asks, in this process, with its cache at `cache`."""
    from huggingface_hub import constants

    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        # These come from the environment when the package is imported, once a process.
        patch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        patch.delenv("HF_TOKEN", raising=False)
        yield hub
    server.shutdown()
    server.server_close()
