// npm's `ws` as an echo server for test_differential.py: echo_ws.js MODULE LIMIT. Prints one JSON line, the port on loopback
// and versions; ends when its stdin does.
'use strict';
const http = require('http');
const [file, limit] = process.argv.slice(2);
const { Server } = require(file);
const version = require(file + '/package.json').version;

// on a port of its own, so that a request without an upgrade is answered as its author says (426)
// (a newer one drops a client with 60 pings unanswered, which depends on the time, unless told otherwise)
const server = new Server({ host: '127.0.0.1', port: 0, path: '/echo', perMessageDeflate: false, maxPayload: +limit,
	maxPendingAutoPongs: 0 });
server.on('connection', (ws) => {
	ws.on('error', () => {}); // it sends its Close all the same
	ws.on('message', (data, binary) => ws.send(data, { binary }));
});
server.on('listening', () => {
	console.log(JSON.stringify({ port: server.address().port, name: `ws ${version} on Node ${process.versions.node}` }));
});
process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
