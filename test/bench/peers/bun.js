// Bun's own server (uWebSockets inside), for bench.py: bun.js CERT KEY [ROOT]. /echo: each message back; /chat: each message
// to every other client, by publish; any other path: the file of ROOT.
const [cert, key, root] = process.argv.slice(2);

const server = Bun.serve({
	hostname: '127.0.0.1',
	port: 0,
	tls: { cert: Bun.file(cert), key: Bun.file(key) },
	fetch(request, server) {
		const path = new URL(request.url).pathname;
		if (path === '/echo' || path === '/chat')
			return server.upgrade(request, { data: path === '/chat' }) ? undefined : new Response(null, { status: 426 });
		return new Response(Bun.file(root + path));
	},
	websocket: {
		perMessageDeflate: false,
		idleTimeout: 960,
		sendPings: false,
		maxPayloadLength: 1 << 24,
		backpressureLimit: 1 << 26,
		open(ws) {
			if (ws.data)
				ws.subscribe('chat');
		},
		message(ws, message) {
			if (ws.data)
				ws.publish('chat', message);
			else
				ws.send(message);
		},
	},
});
console.log(`listening on 127.0.0.1:${server.port}`);
