"""Python's websockets as a server of the tests: it prints its port, then how each connection ended.

It sends everything back, but "ping me" (it does, and says "ponged PAYLOAD" when the pong has come), "in fragments" and
"close CODE REASON". It compresses, with context takeover unless THREADWS_DEFLATE is "fresh". It speaks TLS if
THREADWS_CERT and THREADWS_KEY name its files, and demands a certificate of each client if THREADWS_CA names the file of
their CA.
"""

import os
import ssl
import threading
from socket import SHUT_RDWR

from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.sync.server import serve


def say(text):
    print(text, flush=True)


def ping(socket):
    if socket.ping(b"from the server").wait(10):
        socket.send("ponged from the server")


def answer(socket, message):
    match message.split(" ", 2) if isinstance(message, str) else None:
        case ["ping", "me"]:
            # Pongs are seen by a thread of the library's own, but the answer may not hold up this one.
            threading.Thread(target=ping, args=[socket], daemon=True).start()
        case ["who", "am", "I"]:
            socket.send(socket.request.headers["Authorization"])
        case ["in", "fragments"]:
            socket.send(["one ", "two ", "three"])
        case ["terminate"]:
            # Closing would wait for the library's thread that reads it.
            socket.socket.shutdown(SHUT_RDWR)
        case ["close", code, reason]:
            socket.close(int(code), reason)
        case _:
            socket.send(message)


def handler(socket):
    try:
        while True:
            answer(socket, socket.recv())
    except (ConnectionClosed, OSError):
        pass
    end = socket.protocol.close_rcvd
    say(f"closed {int(end.code)} {end.reason}" if end else "closed 1006 ")


def headers(connection, request, response):
    response.headers["X-Server"] = "the other one"


def subprotocol(connection, names):
    return "chat" if "chat" in names else None


# Why no limit for the close: see client.py.
options = {"close_timeout": None, "process_response": headers, "subprotocols": ["chat"], "select_subprotocol": subprotocol}
if "THREADWS_CERT" in os.environ:
    options["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    options["ssl"].load_cert_chain(os.environ["THREADWS_CERT"], os.environ["THREADWS_KEY"])
    if "THREADWS_CA" in os.environ:
        options["ssl"].load_verify_locations(os.environ["THREADWS_CA"])
        options["ssl"].verify_mode = ssl.CERT_REQUIRED
if os.environ.get("THREADWS_DEFLATE") == "fresh":
    forget = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
    options |= {"extensions": [forget], "compression": None}
with serve(handler, "127.0.0.1", 0, **options) as server:
    say(server.socket.getsockname()[1])
    server.serve_forever()
