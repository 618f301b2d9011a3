// npm's ws as a client of the tests: client.mjs MODE URL [ARGUMENT...]. Ends with status 0 if all was as it should be.
// THREADWS_WS names the folder that has node_modules/ws. For a wss:// URL, THREADWS_CA names the file of the CA.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const WebSocket = createRequire(`${process.env.THREADWS_WS}/`)('ws');
const [mode, url, ...rest] = process.argv.slice(2);

// Whatever should not happen ends the process with a message and status 1.
setTimeout(() => { throw new Error('took too long'); }, 15_000).unref();

async function open(options) {
  const ca = url.startsWith('wss:') ? { ca: readFileSync(process.env.THREADWS_CA) } : {};
  const socket = new WebSocket(url, { ...options, ...ca });
  socket.messages = [];
  socket.waiting = [];
  socket.on('message', (data, isBinary) => {
    const message = { data, isBinary, at: performance.now() };
    const waiter = socket.waiting.shift();
    if (waiter) waiter(message); else socket.messages.push(message);
  });
  assert.equal(socket.readyState, WebSocket.CONNECTING);
  await once(socket, 'open');
  assert.equal(socket.readyState, WebSocket.OPEN);
  assert.equal(socket.extensions, options?.perMessageDeflate ? 'permessage-deflate' : '');
  console.log('open');
  return socket;
}

function message(socket) {
  return socket.messages.shift() ?? new Promise((resolve) => socket.waiting.push(resolve));
}

async function closed(socket) {
  const [code, reason] = await once(socket, 'close');
  assert.equal(socket.readyState, WebSocket.CLOSED);
  return { code, reason: reason.toString() };
}

const modes = {
  async talk(address) {
    const socket = await open(address ? { headers: { 'X-Forwarded-For': address } } : {});
    const texts = ['hello from the client', '', 'h\u00e9llo \uc548\ub155 \u{1f438}', 'x'.repeat(125), 'x'.repeat(126),
      'x'.repeat(65_536), '\uac00'.repeat(349_525)];
    for (const text of texts) {
      socket.send(text);
      const { data, isBinary } = await message(socket);
      assert.equal(isBinary, false);
      assert.equal(data.toString(), text);
    }
    for (const size of [0, 1, 126, 65_535, 65_536, 1 << 20]) {
      const bytes = randomBytes(size);
      socket.send(bytes);
      const { data, isBinary } = await message(socket);
      assert.equal(isBinary, true);
      assert.ok(bytes.equals(data), `${size} bytes`);
    }
    for (const part of ['one ', 'two ', 'three']) socket.send(part, { fin: part === 'three' });
    assert.equal((await message(socket)).data.toString(), 'one two three');
    for (const payload of ['', 'ping', 'x'.repeat(125)]) {
      socket.ping(payload);
      const [answer] = await once(socket, 'pong');
      assert.equal(answer.toString(), payload);
    }
    for (let number = 0; number < 1000; number++) socket.send(`${number}`);
    for (let number = 0; number < 1000; number++) assert.equal((await message(socket)).data.toString(), `${number}`);
    socket.close(4001, 'done');
    assert.equal(socket.readyState, WebSocket.CLOSING);
    assert.equal((await closed(socket)).code, 4001);
  },

  // Compressed, plain and shared messages between each other: echoes, noise, and the server's ticks.
  async deflate(takeover, bits) {
    // ws takes `false` for a demand.
    const forget = takeover !== 'takeover' || undefined;
    const perMessageDeflate = { threshold: 0, serverNoContextTakeover: forget, clientNoContextTakeover: forget };
    if (bits) perMessageDeflate.serverMaxWindowBits = Number(bits);
    const socket = await open({ perMessageDeflate });
    let ticks = 0;
    for (let number = 0; number < 200; number++) {
      const size = [0, 1, 60, 300, 900, 3000, 20_000][number % 7];
      const json = JSON.stringify(Array.from({ length: size / 20 }, (_, at) => ({ id: (at * number) % 97, name: 'a user' })));
      const sent = number % 5 === 4 ? randomBytes(size) : Buffer.from(json);
      socket.send(sent, { compress: number % 3 !== 2, binary: number % 5 === 4 });
      for (;;) {
        const { data } = await message(socket);
        if (!data.toString().startsWith('tick')) { assert.ok(sent.equals(data), `message ${number}`); break; }
        ticks++;
      }
      if (number % 40 === 0) await new Promise((resolve) => setTimeout(resolve, 25));
    }
    assert.ok(ticks > 5, `${ticks} ticks`);
    socket.close(1000);
    assert.equal((await closed(socket)).code, 1000);
  },

  async ticks(count, interval, text) {
    const start = performance.now();
    const socket = await open();
    let first;
    for (let number = 0; number < Number(count); number++) {
      const { data, at } = await message(socket);
      assert.equal(data.toString(), text);
      first ??= at;
      const off = at - first - number * Number(interval);
      assert.ok(Math.abs(off) < interval / 3, `tick ${number} is off by ${off} ms`);
    }
    assert.ok(first - start > interval - 1, 'the first came early');
    socket.close(1000);
    assert.equal((await closed(socket)).code, 1000);
    assert.ok(socket.messages.length <= 1, 'ticks after the close');
  },

  async big() {
    for (const mebibytes of [1, 8, 64]) {
      const socket = await open();
      socket.send(Buffer.alloc((mebibytes << 20) + 1)); // It is still writing when it is refused.
      assert.equal((await closed(socket)).code, 1009, `${mebibytes} MiB`);
    }
  },

  async close() {
    const socket = await open();
    socket.close(1000, 'bye');
    assert.equal((await closed(socket)).code, 1000);
  },

  async bare() {
    const socket = await open();
    socket.close();
    assert.equal((await closed(socket)).code, 1005);
  },

  async wait() {
    const socket = await open();
    const { code, reason } = await closed(socket);
    console.log(`closed ${code} ${reason}`);
  },

  async hear(text) {
    const socket = await open();
    assert.equal((await message(socket)).data.toString(), text);
    socket.close(1000);
    assert.equal((await closed(socket)).code, 1000);
  },
};

await modes[mode](...rest);
