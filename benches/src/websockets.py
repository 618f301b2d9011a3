# The package `websockets` as an echo or broadcast server, with TLS if there is a certificate and a key, otherwise with
# compression. Prints its port.
import asyncio, ssl, sys
from websockets.asyncio.server import broadcast, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
mode, *secret = sys.argv[1:]
clients = set()


async def echo(client):
    async for message in client:
        await client.send(message)


async def fan_out(client):
    clients.add(client)
    try:
        async for message in client:
            broadcast(clients, message)
    finally:
        clients.discard(client)


async def main():
    if secret == ["deflate"]:
        forgetting = ServerPerMessageDeflateFactory(
            server_no_context_takeover=True, client_no_context_takeover=True, compress_settings={"memLevel": 5}
        )
        options = dict(extensions=[forgetting])
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*secret)
        options = dict(ssl=context)
    options |= dict(compression=None, max_size=64 << 20, ping_interval=None, backlog=4096)
    handler = fan_out if mode == "broadcast" else echo
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main())
