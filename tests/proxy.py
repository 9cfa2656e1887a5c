"""A proxy that notes who asks it for what, and leads every request to one server."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clickhouse_server import ClickHouseServer


class Proxy(ThreadingTCPServer):
    """Tunnels what is asked for by CONNECT; passes on anything else as it is."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server: ClickHouseServer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = (server.host, server.port)
        self.heads: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *args: Any) -> None:
        self.shutdown()
        super().__exit__(*args)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        lines = []
        while (line := self.rfile.readline()).strip():
            lines.append(line)
        head = b"".join(lines)
        self.server.heads.append(head.decode())
        with socket.create_connection(self.server.upstream) as upstream:
            if head.startswith(b"CONNECT"):
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                upstream.sendall(head + b"\r\n")
            back = threading.Thread(target=pump, args=(upstream.recv, self.connection))
            back.start()
            pump(self.rfile.read1, upstream)
            back.join()


def pump(receive: Any, target: socket.socket) -> None:
    with suppress(OSError):
        while data := receive(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
