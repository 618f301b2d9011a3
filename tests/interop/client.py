"""Python's websockets as a client of the tests: client.py MODE URL [ARGUMENT...].

Ends with status 0 if all was as it should be. For a wss:// URL, THREADWS_CA names the file of the CA, and
THREADWS_CERT that of a certificate of the client with its key, if it has one.
"""

import json
import os
import ssl
import sys
import time

from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import CloseCode
from websockets.sync.client import connect

mode, url, *rest = sys.argv[1:]
TIMEOUT = 10


def opened(**options):
    if url.startswith("wss:"):
        options["ssl"] = ssl.create_default_context(cafile=os.environ["THREADWS_CA"])
        if "THREADWS_CERT" in os.environ:
            options["ssl"].load_cert_chain(os.environ["THREADWS_CERT"])
    # Without a limit for the close: setting it changes the socket's timeout while a thread of the library begins to read,
    # and over TLS Python then says that the read timed out (seen in one of ten runs with websockets 15 on Python 3.11).
    socket = connect(url, proxy=None, close_timeout=None, max_size=2**21, **options)
    assert bool(socket.protocol.extensions) == ("extensions" in options), socket.protocol.extensions
    print("open", flush=True)
    return socket


def closed(socket):
    """Reads to the end; what the server's Close carried, None if it carried nothing."""
    try:
        while True:
            socket.recv(timeout=TIMEOUT)
    except ConnectionClosed as end:
        assert end.rcvd is not None, "no Close came"
        return end.rcvd


def talk(address=None):
    headers = {"X-Forwarded-For": address} if address else {}
    socket = opened(additional_headers=headers)
    for text in ["hello from the client", "", "h\u00e9llo \uc548\ub155 \U0001f438", "x" * 65536, "\uac00" * 349525]:
        socket.send(text)
        assert socket.recv(timeout=TIMEOUT) == text, len(text)
    for size in [0, 1, 126, 65535, 65536, 1 << 20]:
        bytes = os.urandom(size)
        socket.send(bytes)
        assert socket.recv(timeout=TIMEOUT) == bytes, size
    socket.send(["one ", "two ", "three"])  # a fragmented message
    assert socket.recv(timeout=TIMEOUT) == "one two three"
    for payload in [b"", b"ping", b"x" * 125]:
        assert socket.ping(payload).wait(TIMEOUT), "no pong"
    for number in range(1000):
        socket.send(str(number))
    for number in range(1000):
        assert socket.recv(timeout=TIMEOUT) == str(number)
    socket.close(4001, "done")
    assert socket.close_code == 4001, socket.close_code


def deflate(takeover, bits=None):
    """Compressed, plain and shared messages between each other: echoes, noise, and the server's ticks."""
    forget = takeover != "takeover"
    factory = ClientPerMessageDeflateFactory(
        server_no_context_takeover=forget,
        client_no_context_takeover=forget,
        server_max_window_bits=int(bits) if bits else None,
        client_max_window_bits=True,
    )
    socket = opened(extensions=[factory], compression=None)
    ticks = 0
    for number in range(200):
        size = [0, 1, 60, 300, 900, 3000, 20000][number % 7]
        sent = os.urandom(size) if number % 5 == 4 else json.dumps([{"id": at * number % 97} for at in range(size // 10)])
        socket.send(sent)
        while isinstance(back := socket.recv(timeout=TIMEOUT), str) and back.startswith("tick"):
            ticks += 1
        assert back == sent, number
        if number % 40 == 0:
            time.sleep(0.025)
    assert ticks > 5, ticks
    socket.close()


def noise(size):
    """A message of this size that zlib makes longer, by each level with each memory level."""
    for level in range(10):
        for memory in range(1, 10):
            for bits in [9, 15]:
                factory = ClientPerMessageDeflateFactory(
                    client_max_window_bits=bits,
                    compress_settings={"level": level, "memLevel": memory},
                )
                socket = opened(extensions=[factory], compression=None)
                sent = os.urandom(int(size))
                socket.send(sent)
                while isinstance(back := socket.recv(timeout=TIMEOUT), str) and back.startswith("tick"):
                    pass
                assert back == sent, (level, memory, bits)
                socket.close()


def ticks(count, interval, text):
    start, first, interval = time.monotonic(), None, int(interval) / 1000
    socket = opened()
    for number in range(int(count)):
        assert socket.recv(timeout=TIMEOUT) == text
        now = time.monotonic()
        first = first or now
        off = now - first - number * interval
        assert abs(off) < interval / 3, f"tick {number} is off by {off} s"
    assert first - start > interval - 0.001, "the first came early"
    socket.close()
    assert socket.close_code == 1000, socket.close_code


def big():
    for mebibytes in [1, 8, 64]:
        socket = opened()
        try:
            socket.send(bytes(mebibytes * 2**20 + 1))
        except ConnectionClosed:
            pass  # It may be refused before all is written.
        assert closed(socket).code == 1009, mebibytes


def close():
    socket = opened()
    socket.close(1000, "bye")
    assert socket.close_code == 1000, socket.close_code


def bare():
    # close() always sends a code; one layer below, a Close without one can be sent.
    socket = opened()
    with socket.protocol_mutex:
        socket.protocol.send_close()
        for bytes in socket.protocol.data_to_send():
            if bytes:
                socket.socket.sendall(bytes)
    assert closed(socket).code == CloseCode.NO_STATUS_RCVD


def wait():
    frame = closed(opened())
    print(f"closed {int(frame.code)} {frame.reason}", flush=True)


def hear(text):
    socket = opened()
    assert socket.recv(timeout=TIMEOUT) == text
    socket.close()
    assert socket.close_code == 1000, socket.close_code


{"talk": talk, "deflate": deflate, "noise": noise, "ticks": ticks, "big": big, "close": close, "bare": bare, "wait": wait, "hear": hear}[mode](*rest)
