// Node's `ws` as a client: node_client.js SCENARIO URL CA, one JSON object on stdout.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const readline = require('readline');
const WebSocket = require('ws');

const [scenario, url, ca] = process.argv.slice(2);
// family: localhost may be ::1 first, where nobody listens
const options = { ca: fs.readFileSync(ca), handshakeTimeout: 10000, family: 4 };
const said = { events: [] };

function done(extra) {
	console.log(JSON.stringify(Object.assign(said, extra)));
	process.exit(0);
}

setTimeout(() => { console.error('no end within 20 s', JSON.stringify(said)); process.exit(3); }, 20000);

function open(protocols, more) {
	const ws = new WebSocket(url, protocols || [], Object.assign({}, options, more));
	ws.on('error', (e) => { console.error(String(e)); process.exit(2); });
	ws.on('close', (code, reason) => done({ code, reason: reason.toString() }));
	return ws;
}

// Sends each of these in turn, once the one before came back.
function exchange(ws, messages, then) {
	let i = 0;
	ws.on('message', (data, binary) => {
		const want = messages[i++];
		const same = binary === Buffer.isBuffer(want) && Buffer.from(want).equals(data);
		said.events.push(same ? 'same' : `other: ${binary} ${data.length}`);
		if (i < messages.length)
			ws.send(messages[i]);
		else
			then();
	});
	ws.on('open', () => ws.send(messages[0]));
}

const scenarios = {
	text() {
		const ws = open();
		exchange(ws, ['hello', '', 'Grüße, κόσμε, 世界 🌍', 'x'.repeat(125), 'x'.repeat(126), 'x'.repeat(70000)],
			() => ws.close(1000, 'enough'));
	},
	binary() {
		const ws = open();
		exchange(ws, [0, 1, 125, 126, 65535, 65536, 1 << 20].map((n) => crypto.randomBytes(n)), () => ws.close(3001));
	},
	fragments() {
		const ws = open();
		ws.on('open', () => {
			ws.send('one ', { fin: false });
			ws.ping('between');
			ws.send('two ', { fin: false });
			ws.send('three');
		});
		ws.on('pong', (data) => said.events.push('pong ' + data));
		ws.on('message', (data) => { said.events.push(data.toString()); ws.close(4999, 'ünd'); });
	},
	ping() {
		const ws = open();
		ws.on('open', () => { ws.ping(); ws.ping('abc'); ws.ping('x'.repeat(125)); });
		ws.on('pong', (data) => { said.events.push(data.length); if (said.events.length === 3) ws.close(); });
	},
	protocol() {
		const ws = open(['unknown', 'b', 'a']);
		ws.on('open', () => { said.protocol = ws.protocol; said.extensions = ws.extensions; ws.close(1000); });
	},
	deflate() {
		const ws = open([], { perMessageDeflate: { threshold: 0 } });
		ws.on('open', () => { said.extensions = ws.extensions; });
		exchange(ws, ['compress me '.repeat(1000)], () => ws.close(1000));
	},
	terminate() {
		const ws = open();
		ws.on('open', () => ws.send('x'));
		ws.on('message', () => ws.terminate());
	},
	wait() { // until the server ends it
		const ws = open();
		ws.on('open', () => fs.writeSync(1, ''));
		ws.on('ping', () => said.events.push('ping'));
	},
	lines() { // what a person at a terminal does: each line goes out, each answer is printed
		const ws = open();
		const input = readline.createInterface({ input: process.stdin });
		const queue = [];
		input.on('line', (line) => { if (ws.readyState === WebSocket.OPEN) ws.send(line); else queue.push(line); });
		ws.on('open', () => queue.splice(0).forEach((line) => ws.send(line)));
		ws.on('message', (data) => {
			console.log('< ' + data);
			if (data.toString() === 'bye')
				ws.close(1000);
		});
	},
};
scenarios[scenario]();
