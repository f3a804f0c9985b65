"""A port of this machine that answers with whatever bytes a test gives it."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import contextmanager


@contextmanager
def listening(reply: bytes, reset: bool = False):
    """A port of this machine that answers each request with these bytes; gives it and the requests' bytes."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-l")), 0)
            while len(body) < length:
                body += connection.recv(65536)
            asked.append(data)
            connection.sendall(reply)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1], asked
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def http(body: bytes | object, status: str = "200 OK", kind: str = "application/json", more: int = 0, **headers: str):
    """An HTTP/1.1 reply; `more` bytes are promised and never sent."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Content-Type": kind, "Content-Length": str(len(data) + more), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data
