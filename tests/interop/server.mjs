// npm's ws as a server of the tests: it prints its port, then how each connection ended. It sends everything back, but
// "ping me" (it does, and says "ponged PAYLOAD" when the pong has come), "in fragments" and "close CODE REASON".
// It compresses if THREADWS_DEFLATE is "takeover" or "fresh".
// THREADWS_WS names the folder that has node_modules/ws. It speaks TLS if THREADWS_CERT and THREADWS_KEY name its files.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';

const { WebSocketServer } = createRequire(`${process.env.THREADWS_WS}/`)('ws');
const { THREADWS_CERT, THREADWS_KEY, THREADWS_DEFLATE } = process.env;
const listener = THREADWS_CERT
  ? https.createServer({ cert: readFileSync(THREADWS_CERT), key: readFileSync(THREADWS_KEY) })
  : http.createServer();
// ws takes `false` for a demand.
const forget = THREADWS_DEFLATE === 'fresh' || undefined;
const perMessageDeflate = THREADWS_DEFLATE
  ? { threshold: 0, serverNoContextTakeover: forget, clientNoContextTakeover: forget }
  : false;
const server = new WebSocketServer({ server: listener, perMessageDeflate, handleProtocols: (names) => names.has('chat') && 'chat' });
server.on('headers', (headers) => headers.push('X-Server: the other one'));
listener.listen(0, '127.0.0.1', () => console.log(listener.address().port));
server.on('connection', (socket, request) => {
  socket.on('error', (error) => console.log(`error ${error.message}`));
  socket.on('close', (code, reason) => console.log(`closed ${code} ${reason}`));
  socket.on('ping', (data) => console.log(`pinged ${data}`));
  socket.on('pong', (data) => socket.send(`ponged ${data}`));
  socket.on('message', (data, isBinary) => {
    const text = isBinary ? '' : data.toString();
    const [, code, reason] = text.match(/^close (\d+) (.*)$/) ?? [];
    if (text === 'ping me') socket.ping('from the server');
    else if (text === 'who am I') socket.send(request.headers.authorization);
    else if (text === 'in fragments') for (const part of ['one ', 'two ', 'three']) socket.send(part, { fin: part === 'three' });
    else if (text === 'terminate') socket.terminate();
    else if (code) socket.close(Number(code), reason);
    else socket.send(data, { binary: isBinary });
  });
});
