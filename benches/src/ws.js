// The package `ws` as an echo or broadcast server, with TLS if there is a certificate and a key, or with compression if the
// second argument is `deflate`. Prints its port.
const { readFileSync } = require('fs');
const { WebSocketServer } = require('ws');
const [mode, cert, key] = process.argv.slice(1);
const kind = key ? require('https') : require('http');
const perMessageDeflate =
  cert === 'deflate' && { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true };
const secret = key ? { cert: readFileSync(cert), key: readFileSync(key) } : {};
const http = kind.createServer(secret).listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => console.log(http.address().port));
const server = new WebSocketServer({ server: http, perMessageDeflate, maxPayload: 64 << 20 });
server.on('connection', (client) => {
  client._socket.setNoDelay(true);
  client.on('error', () => {});
  client.on('message', (data, binary) => {
    if (mode === 'broadcast') for (const one of server.clients) one.send(data, { binary });
    else client.send(data, { binary });
  });
});
