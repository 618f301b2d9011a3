// The package `ws` as an echo or broadcast server. Prints its port.
const { WebSocketServer } = require('ws');
const broadcast = process.argv.includes('broadcast');
const options = { port: 0, host: '127.0.0.1', perMessageDeflate: false, backlog: 4096, maxPayload: 64 << 20 };
const server = new WebSocketServer(options, () => console.log(server.address().port));
server.on('connection', (client) => {
  client._socket.setNoDelay(true);
  client.on('error', () => {});
  client.on('message', (data, binary) => {
    if (broadcast) for (const one of server.clients) one.send(data, { binary });
    else client.send(data, { binary });
  });
});
