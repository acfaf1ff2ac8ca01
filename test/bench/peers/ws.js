// npm's ws on node, for bench.py: ws.js CERT KEY. /echo: each message back; /chat: each message to every other client.
'use strict';
const fs = require('fs');
const https = require('https');
const { WebSocketServer } = require('ws');
const [cert, key] = process.argv.slice(2);

const server = https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key), ecdhCurve: 'X25519' });
const sockets = new WebSocketServer({ server, perMessageDeflate: false, maxPayload: 1 << 24 });
const chat = new Set();

sockets.on('connection', (ws, request) => {
	ws.on('error', () => {});
	if (request.url === '/chat') {
		chat.add(ws);
		ws.on('close', () => chat.delete(ws));
		ws.on('message', (data, binary) => {
			for (const other of chat)
				if (other !== ws)
					other.send(data, { binary });
		});
	} else {
		ws.on('message', (data, binary) => ws.send(data, { binary }));
	}
});
server.listen({ host: '127.0.0.1', port: 0, backlog: 1024 }, () => {
	console.log(`listening on 127.0.0.1:${server.address().port}`);
});
