// The console page of wssd: one WebSocket, what it sent and received, and why it ended.
//
// Nothing here grows with what passes: the log keeps ROWS lines with the beginning of each message, and a
// file is read piece by piece, only when the browser has given the last pieces to the network. Text from
// the network goes into the page as textContent and in no other way.

const ROWS = 500;               // lines in the log
const KEEP_TEXT = 2000;         // characters kept of a text message
const KEEP_BYTES = 512;         // bytes kept of a binary message
const WAITING = 1000;           // messages whose echo is awaited
const SAMPLES = 200;            // round trips behind the median
const HIGH_WATER = 4 << 20;     // bytes that the browser may hold for the network
const BULK = 16384;             // messages from this size on count for the throughput

const $ = id => document.getElementById(id);
const encoder = new TextEncoder();
const DEFAULT_ROUTES = [
	{ path: "/echo", kind: "echo", note: "each message comes back" },
	{ path: "/chat", kind: "hub", note: "each message to all the others" },
];
let routes = DEFAULT_ROUTES;

/* ---- words ---- */

// RFC 6455 section 7.4.1 and the IANA registry: what the code says, and what a person can do.
const CODES = {
	1000: ["Normal closure", "Done, nothing is wrong."],
	1001: ["Going away", "The server is shutting down or restarting. Connect again in a moment."],
	1002: ["Protocol error", "One side broke the rules of RFC 6455. The server's log names the frame."],
	1003: ["Unsupported data", "The other side does not take this kind of message. Send text instead of binary, or the reverse."],
	1004: ["Reserved", "Not defined. The other side should not send it."],
	1005: ["No status", "The other side closed properly, but without giving a code."],
	1006: ["Lost without a goodbye", "The connection ended without a close frame: the network went away, the server was killed, or something between cut it. Connect again; if it comes back, see the server's log."],
	1007: ["Invalid payload", "Text that is not valid UTF-8. Send it as binary."],
	1008: ["Policy violation", "The server does not allow this. Its log says what."],
	1009: ["Message too big", "Longer than the server takes on this route. Send smaller messages, or raise --max-message."],
	1010: ["Extension missing", "The client needs an extension that the server did not agree to."],
	1011: ["Internal error", "What stands behind this route failed or went away. Look at that service and at the server's log."],
	1012: ["Service restart", "The server restarts. Connect again in a few seconds."],
	1013: ["Try again later", "The server is overloaded, or this client read too slowly and was left behind. Connect again."],
	1014: ["Bad gateway", "The server behind the gateway gave an invalid answer. Look at that server."],
	1015: ["TLS failed", "No secure connection. Open the address as https:// once and look at the certificate."],
	3000: ["Unauthorized", "Credentials are missing or wrong."],
	3003: ["Forbidden", "These credentials do not allow it."],
	3008: ["Timeout", "The other side waited too long. Connect again."],
};

function closeWords(code) {
	if (CODES[code])
		return CODES[code];
	if (code >= 4000 && code < 5000)
		return ["Private code", "The application on the other side defines it; see its documentation."];
	if (code >= 3000 && code < 4000)
		return ["Library or framework code", "Registered or defined by the software on the other side."];
	return ["Unknown code", "Not in the registry of RFC 6455."];
}

function bytes(n) {
	if (n < 1024)
		return n + " B";
	const units = ["KiB", "MiB", "GiB", "TiB"];
	let u = -1;
	do {
		n /= 1024;
		u++;
	} while (n >= 1023.95 && u < 3);
	return (n < 9.995 ? n.toFixed(2).replace(/\.?0+$/, "") : n < 99.95 ? n.toFixed(1).replace(/\.0$/, "") :
		Math.round(n)) + " " + units[u];
}

function millis(t) {
	return t < 9.95 ? t.toFixed(1) + " ms" : t < 999.5 ? Math.round(t) + " ms" : (t / 1000).toFixed(2) + " s";
}

function clock(date) {
	const two = n => String(n).padStart(2, "0");
	return two(date.getHours()) + ":" + two(date.getMinutes()) + ":" + two(date.getSeconds()) + "." +
		String(date.getMilliseconds()).padStart(3, "0");
}

function duration(t) {
	const s = Math.floor(t / 1000), two = n => String(n).padStart(2, "0");
	return (s >= 3600 ? Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) : Math.floor(s / 60)) +
		":" + two(s % 60);
}

const plural = (n, word) => n.toLocaleString("en") + " " + word + (n === 1 ? "" : "s");

function hexLine(data) {
	return Array.from(data, b => b.toString(16).padStart(2, "0")).join(" ");
}

function hexDump(data) {
	const lines = [];
	for (let at = 0; at < data.length; at += 16) {
		const row = data.subarray(at, at + 16);
		lines.push(at.toString(16).padStart(4, "0") + "  " + hexLine(row).padEnd(Math.min(16, data.length) * 3 - 1) + "  " +
			Array.from(row, b => b >= 32 && b < 127 ? String.fromCharCode(b) : "·").join(""));
	}
	return lines.join("\n");
}

// Tells two messages of equal size apart; FNV-1a over words, so that a MiB costs a millisecond.
function fingerprint(data) {
	let h = 0x811c9dc5;
	const words = data.length >> 2, view = new DataView(data.buffer, data.byteOffset, data.length);
	for (let i = 0; i < words; i++)
		h = Math.imul(h ^ view.getUint32(i << 2), 0x01000193) ^ (h >>> 15);
	for (let i = words << 2; i < data.length; i++)
		h = Math.imul(h ^ data[i], 0x01000193);
	return h >>> 0;
}

/* ---- the log ---- */

let pending = [];       // lines not yet in the page
let paint = 0;
let lost = 0;           // lines that are no longer in the log

function log(line) {
	line.at = clock(new Date());
	pending.push(line);
	if (pending.length > ROWS) {
		pending.shift();
		lost++;
	}
	if (!paint)
		paint = requestAnimationFrame(flushLog);
}

function element(name, className, text) {
	const e = document.createElement(name);
	if (className)
		e.className = className;
	if (text !== undefined)
		e.textContent = text;
	return e;
}

function row(line) {
	const li = element("li", line.kind);
	const more = line.detail !== undefined;
	const box = more ? element("details") : element("div");
	const head = more ? element("summary", "line") : element("div", "line");
	const arrows = { out: ["↑", "sent"], in: ["↓", "received"], note: ["", ""], bad: ["!", "problem"], good: ["", ""] };

	head.append(element("time", "", line.at));
	const arrow = element("span", "arrow");
	const sign = element("span", "", arrows[line.kind][0]);
	sign.setAttribute("aria-hidden", "true");
	arrow.append(sign, element("span", "unseen", arrows[line.kind][1]));
	head.append(arrow);
	if (line.size !== undefined) {
		const size = element("span", "size", bytes(line.size));
		size.title = plural(line.size, "byte");
		head.append(size);
	}
	head.append(element("span", "preview" + (line.mono ? " mono" : ""), line.preview));
	if (line.trip !== undefined) {
		const trip = element("span", "trip", millis(line.trip));
		trip.title = "round trip; the same bytes came back";
		head.append(trip);
	} else if (line.mark)
		head.append(element("span", "trip", line.mark));
	box.append(head);
	if (more)
		box.append(element("pre", "", line.detail));
	li.append(box);
	return li;
}

// The newest line stays in view until the reader's own hand scrolls away from it; a new layout does not count.
let following = true, touched = 0;

function scrolled() {
	if ($("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 40) {
		following = true;
		$("latest").hidden = true;
	} else if (performance.now() - touched < 1000)
		following = false;
}

function toEnd() {
	following = true;
	$("log").scrollTop = $("log").scrollHeight;
	$("latest").hidden = true;
}

function flushLog() {
	paint = 0;
	const rows = $("rows");
	rows.append(...pending.map(row));
	pending = [];
	while (rows.childElementCount > ROWS) {
		rows.firstElementChild.remove();
		lost++;
	}
	$("empty").hidden = true;
	$("dropped").textContent = lost ? plural(lost, "earlier line") + " dropped" : "";
	if (following)
		toEnd();
	else
		$("latest").hidden = false;
}

function clearLog() {
	pending = [];
	lost = 0;
	$("rows").replaceChildren();
	following = true;
	$("dropped").textContent = "";
	$("latest").hidden = true;
	$("empty").hidden = false;
}

// A screen reader hears one sentence a second at most, however fast the messages come.
let heard = 0, sayTimer = 0, sayLast = "";

function say(sentence) {
	heard++;
	sayLast = sentence;
	if (sayTimer)
		return;
	sayTimer = setTimeout(() => {
		$("live").textContent = heard === 1 ? sayLast : heard + " messages received. Last: " + sayLast;
		heard = sayTimer = 0;
	}, 1000);
}

// What a line shows of a message: { mono, preview, detail }, bounded whatever its size.
function glimpse(content) {
	if (typeof content === "string") {
		const kept = content.slice(0, KEEP_TEXT);
		const cut = content.length > KEEP_TEXT;
		const short = kept.length <= 60 && !kept.includes("\n");
		return { mono: false, preview: kept.slice(0, 200).replace(/\s+/g, " ") || "(empty)",
			detail: short ? undefined : kept + (cut ? "\n… " + plural(content.length - KEEP_TEXT, "more character") : "") };
	}
	const kept = content.slice(0, KEEP_BYTES);
	const cut = content.length - kept.length;
	return { mono: true, preview: hexLine(kept.subarray(0, 32)) || "(empty)",
		detail: kept.length ? hexDump(kept) + (cut ? "\n… " + plural(cut, "more byte") : "") : undefined };
}

/* ---- the connection ---- */

let ws = null;          // the one WebSocket, or null
let opened = 0;         // when it opened, 0 before
let since = 0;          // when the state began
let ticking = 0;
let awaited = [];       // sent messages whose echo may come: { t, size, text, print, alone }
let trips = [];         // the round trips behind the median
let lastTrip;
let numbersDue = 0;     // the timer that shows them
let transfer = null;    // { stop } while a file or random bytes are being sent
let count, meter;

function resetNumbers() {
	count = { out: 0, outBytes: 0, in: 0, inBytes: 0 };
	meter = { out: { t: 0, last: -1e9, bytes: 0 }, in: { t: 0, last: -1e9, bytes: 0 } };
	awaited = [];
	trips = [];
	lastTrip = undefined;
	showNumbers();
}

function showNumbers() {
	numbersDue = 0;
	$("n-out").textContent = count.out.toLocaleString("en");
	$("n-out-more").textContent = bytes(count.outBytes);
	$("n-in").textContent = count.in.toLocaleString("en");
	$("n-in-more").textContent = bytes(count.inBytes);
	const sorted = trips.slice().sort((a, b) => a - b);
	$("n-rtt").textContent = lastTrip === undefined ? "–" : millis(lastTrip);
	$("n-rtt-more").textContent = sorted.length > 1 ? "median " + millis(sorted[sorted.length >> 1]) : "";
	const rate = m => m.last > m.t ? bytes(m.bytes / (m.last - m.t) * 1000) + "/s" : "";
	const up = rate(meter.out), down = rate(meter.in);
	$("n-rate").textContent = (down && "↓ " + down) || (up && "↑ " + up) || "–";
	$("n-rate-more").textContent = down && up ? "↑ " + up : "";
}

function numbersChanged() {
	if (!numbersDue)
		numbersDue = setTimeout(showNumbers, 100);
}

// A transfer is what passes of large messages without a second of silence. Receiving is counted from the
// first sending, so that one large echo has a throughput too.
function passed(m, size, now) {
	if (size < BULK)
		return;
	if (now - m.last > 1000)
		Object.assign(m, { t: now, bytes: 0 });
	if (m === meter.out && now - meter.in.last > 1000)
		Object.assign(meter.in, { t: now, last: now, bytes: 0 });
	m.bytes += size;
	m.last = now;
}

const STATES = { closed: "Not connected", connecting: "Connecting", open: "Open", closing: "Closing", failed: "Closed" };

function tick() {
	$("state-time").textContent = duration(performance.now() - since);
}

function setState(state, word) {
	document.body.dataset.state = state;
	$("state-word").textContent = word || STATES[state];
	$("state-time").textContent = "";
	clearInterval(ticking);
	if (state === "open" || state === "connecting" || state === "closing") {
		since = performance.now();
		tick();
		ticking = setInterval(tick, 1000);
	}
	const busy = ws !== null;
	$("connect").textContent = state === "connecting" ? "Cancel" : state === "closing" ? "Closing…" :
		busy ? "Disconnect" : "Connect";
	$("connect").disabled = state === "closing";
	for (const control of document.querySelectorAll("#routes input, #path, #protocol"))
		control.disabled = busy;
	if (!transfer)
		$("send").disabled = state !== "open";
	document.title = (state === "open" ? "● " + address.shown + " – " : "") + "wssd console";
}

// What happened, in words; perhaps an option of the server to copy, and a page to open.
function notice(kind, title, text, link, option) {
	$("notice").className = "notice " + kind;
	$("notice-title").textContent = title;
	$("notice-text").textContent = text;
	$("notice-option").textContent = option || "";
	$("notice-option").hidden = !option;
	$("notice-link").hidden = !link;
	if (link) {
		$("notice-link").href = link;
		$("notice-link").textContent = "Open " + link;
	}
	$("notice").hidden = !title;
}

// "/echo", "echo" or "wss://host:port/echo" to { url, shown, path, here }, or null when it is none of them.
function readAddress(typed) {
	const scheme = location.protocol === "https:" ? "wss:" : "ws:";
	typed = typed.trim().replace(/#.*/, "").replace(/^http(s?):/i, "ws$1:");
	try {
		const url = new URL(/^wss?:\/\//i.test(typed) ? typed :
			scheme + "//" + location.host + (typed.startsWith("/") ? "" : "/") + typed);
		const here = url.host === location.host && url.protocol === scheme;
		return { url: url.href, here, path: url.pathname, shown: here ? url.pathname + url.search : url.href,
			page: url.href.replace(/^ws/, "http") };
	} catch {
		return null;
	}
}

let address = readAddress("/echo");

function kindOf(path) {
	const known = routes.find(r => r.path === path);
	return known ? known.kind : "";
}

function connect() {
	const to = readAddress($("path").value);
	const offered = $("protocol").value.split(/[\s,]+/).filter(Boolean);

	if (!to) {
		notice("bad", "Not an address", "Give a path such as /echo, or a whole address such as wss://host:8443/echo.");
		$("path").focus();
		return;
	}
	address = to;
	remember();
	try {
		ws = new WebSocket(to.url, offered);
	} catch (e) {
		ws = null;
		notice("bad", "The browser refuses", e.name === "SecurityError" ?
			"A page that came by https may open wss:// addresses only." :
			"A subprotocol is a word without spaces and without any of ( ) < > @ ; : \\ \" / [ ] ? = { }, each once.");
		return;
	}
	ws.binaryType = "arraybuffer";
	opened = 0;
	resetNumbers();
	notice("", "", "");
	log({ kind: "note", preview: "Connecting to " + to.url + (offered.length ? ", offering " + offered.join(", ") : "") });
	setState("connecting");

	const mine = ws;
	ws.onopen = () => {
		opened = performance.now();
		const spoken = mine.protocol ? ", subprotocol " + mine.protocol : "";
		log({ kind: "good", preview: "Open" + spoken, mark: millis(opened - since) });
		setState("open");
		notice("good", "Open on " + to.shown, (to.url.startsWith("wss:") ? "Encrypted" : "Not encrypted") + spoken + ".");
		if (matchMedia("(hover: hover)").matches)
			focusInput();
	};
	ws.onmessage = e => received(e.data);
	ws.onclose = e => closed(mine, to, offered, e);
}

async function closed(which, to, offered, e) {
	const wasOpen = opened > 0, cancelled = which.cancelled;

	ws = null;
	transfer = null;
	let [title, advice] = closeWords(e.code);
	let kind = e.code === 1000 || e.code === 1005 ? "note" : "bad";
	if (cancelled && !wasOpen)
		[title, advice, kind] = ["Cancelled", "Not connected: you stopped it.", "note"];
	else if (!wasOpen) {
		title = "Not connected";
		advice = "Looking for the reason …";
	}
	const shown = wasOpen ? e.code + " " + title : title;
	log({ kind, preview: (wasOpen ? "Closed: " + e.code + " " + title : title + " (1006)") + (e.reason ? ", “" + e.reason + "”" : ""),
		mark: wasOpen ? "after " + duration(performance.now() - opened) : undefined });
	setState(kind === "bad" ? "failed" : "closed", wasOpen ? "Closed " + e.code : STATES.closed);
	endTransfer();
	notice(kind, shown, (e.reason ? "“" + e.reason + "” " : "") + advice);
	if (wasOpen || cancelled)
		return;
	let link, option;
	[advice, link, option] = await whyNot(to, offered);
	if (ws === null && address === to) {
		notice(kind, shown, advice, link, option);
		log({ kind: "note", preview: advice });
	}
}

// A browser tells a page nothing about a handshake that failed; a plain GET of the same path does.
async function whyNot(to, offered) {
	if (!to.here)
		return ["No WebSocket came about with this other address. Either its server is not there, or the browser does not " +
			"trust its certificate yet, or the server refuses pages from here and needs this option:",
			to.url.startsWith("wss:") ? new URL("/", to.page).href : "", "--origin " + location.origin];
	let status;
	try {
		const limit = new AbortController();
		const timer = setTimeout(() => limit.abort(), 5000);
		const reply = await fetch(to.page, { cache: "no-store", redirect: "manual", signal: limit.signal });
		clearTimeout(timer);
		status = reply.status;
		reply.body?.cancel();
	} catch {
		return ["The server does not answer. It is stopped or restarting, or its certificate changed: reload this page then."];
	}
	if (status === 426)
		return [offered.length ? "The route is there, but did not accept. Most likely it does not speak the subprotocol " +
			offered.join(" or ") + "; else the service behind it is down (502), or the server's log tells." :
			"The route is there, but did not accept. Most likely the service behind it is down (502), the route wants a subprotocol, " +
			"or the server refuses this page's origin (403). The server's log tells which."];
	if (status === 404)
		return ["The server is there, but has no route " + to.path + "."];
	if (status === 401 || status === 403 || status === 421)
		return ["The server refuses with status " + status + ". Its log names the option that would allow it."];
	if (status === 503)
		return ["The server is full. Try again in a moment."];
	return [to.path + " is a page or a file, not a WebSocket route."];
}

function disconnect() {
	if (!ws)
		return;
	ws.cancelled = true;
	const connecting = ws.readyState === WebSocket.CONNECTING;
	if (!connecting) {
		log({ kind: "note", preview: "Closing: 1000, asked for here" });
		ws.close(1000);
		setState("closing");
	} else
		ws.close();
}

/* ---- messages ---- */

function sendMessage(content) {
	const data = typeof content === "string" ? encoder.encode(content) : content;
	const now = performance.now();

	passed(meter.out, data.length, now);
	if (awaited.length >= WAITING)
		awaited.shift();
	awaited.push({ t: now, size: data.length, text: typeof content === "string", print: fingerprint(data),
		alone: awaited.length === 0 });
	ws.send(content);
	count.out++;
	count.outBytes += data.length;
	log({ kind: "out", size: data.length, ...glimpse(content) });
	numbersChanged();
}

function received(content) {
	const now = performance.now();
	const text = typeof content === "string";
	const data = text ? encoder.encode(content) : new Uint8Array(content);
	const line = { kind: "in", size: data.length, ...glimpse(text ? content : data) };

	count.in++;
	count.inBytes += data.length;
	passed(meter.in, data.length, now);
	const first = awaited[0];
	if (first && first.size === data.length && first.text === text && first.print === fingerprint(data)) {
		awaited.shift();
		line.trip = lastTrip = now - first.t;
		if (first.alone) {
			trips.push(lastTrip);
			if (trips.length > SAMPLES)
				trips.shift();
		}
	} else if (address.here && kindOf(address.path) === "echo")
		line.mark = "not as sent";
	log(line);
	numbersChanged();
	say("Received " + (text ? "text: " + content.slice(0, 100) : plural(data.length, "byte")));
}

function endTransfer() {
	transfer = null;
	$("progress").hidden = true;
	$("send").textContent = "Send";
	$("send").disabled = document.body.dataset.state !== "open";
}

// Sends `total` bytes in messages of `piece`; `read(from, to)` gives each as a Uint8Array.
async function sendPieces(total, piece, read) {
	const mine = transfer = { stop: false }, to = ws;
	const alive = () => !mine.stop && ws === to && to.readyState === WebSocket.OPEN;
	let at = 0;

	$("send").textContent = "Stop";
	$("progress").value = 0;
	$("progress").hidden = total <= piece;
	try {
		do {
			const end = Math.min(at + piece, total);
			const data = await read(at, end);
			while (alive() && to.bufferedAmount > HIGH_WATER)
				await new Promise(resolve => setTimeout(resolve, 5));
			if (!alive())
				break;
			sendMessage(data);
			at = end;
			$("progress").value = total ? at / total : 1;
		} while (at < total);
	} catch (e) {
		notice("bad", "The file cannot be read", e.message);
	}
	if (mine.stop)
		log({ kind: "note", preview: "Stopped after " + bytes(at) + " of " + bytes(total) });
	if (transfer === mine)
		endTransfer();
}

function randomBytes(from, to) {
	const data = new Uint8Array(to - from);
	for (let at = 0; at < data.length; at += 65536)         // the most that getRandomValues gives at once
		crypto.getRandomValues(data.subarray(at, at + 65536));
	return data;
}

const mode = () => document.querySelector("[name=mode]:checked").value;

function sendFile(file) {
	log({ kind: "note", preview: "File " + file.name + ", " + bytes(file.size) });
	return sendPieces(file.size, Number($("piece").value),
		async (from, to) => new Uint8Array(await file.slice(from, to).arrayBuffer()));
}

function send() {
	if (transfer) {
		transfer.stop = true;
		return;
	}
	if (!ws || ws.readyState !== WebSocket.OPEN)
		return;
	if (mode() === "text") {
		sendMessage($("text").value);
		$("text").value = "";
		grow($("text"));
		focusInput();
	} else if (mode() === "hex") {
		const digits = $("hex").value.replace(/0x|[\s,:]/gi, "");
		if (!/^([0-9a-f]{2})*$/i.test(digits)) {
			notice("bad", "Not hex", "Write two digits a byte, such as 01 02 ff.");
			return;
		}
		sendMessage(Uint8Array.from(digits.match(/../g) || [], d => parseInt(d, 16)));
		focusInput();
	} else if (mode() === "file") {
		if ($("file").files.length)
			sendFile($("file").files[0]);
		else
			$("file").click();
	} else
		sendPieces(Number($("amount").value), Number($("piece").value), randomBytes);
}

/* ---- controls ---- */

function focusInput() {
	const input = document.querySelector("#inputs label:not([hidden]) :is(textarea, input, select)");
	input.focus({ preventScroll: true });
}

function grow(area) {
	area.rows = Math.min(6, area.value.split("\n").length);
}

function showMode() {
	for (const label of document.querySelectorAll("#inputs label"))
		label.hidden = !label.dataset.mode.split(" ").includes(mode());
	remember();
}

function showRoutes() {
	$("route-list").replaceChildren(...routes.map(r => {
		const label = element("label"), radio = element("input");
		radio.type = "radio";
		radio.name = "route";
		radio.value = r.path;
		radio.disabled = ws !== null;
		label.append(radio, element("span", "mono", r.path), element("small", "", r.note));
		return label;
	}));
	markRoute();
}

function markRoute() {
	for (const radio of document.querySelectorAll("[name=route]"))
		radio.checked = radio.value === $("path").value.trim();
}

// Storage may be switched off; then the page only forgets.
function remember() {
	try {
		localStorage.setItem("wssd", JSON.stringify({ path: $("path").value, protocol: $("protocol").value, mode: mode() }));
	} catch { /* nothing is lost but comfort */ }
}

function recall() {
	try {
		const old = JSON.parse(localStorage.getItem("wssd")) || {};
		if (typeof old.path === "string" && old.path)
			$("path").value = old.path.slice(0, 2000);
		if (typeof old.protocol === "string")
			$("protocol").value = old.protocol.slice(0, 500);
		for (const radio of document.querySelectorAll("[name=mode]"))
			radio.checked = radio.value === (["text", "hex", "file", "random"].includes(old.mode) ? old.mode : "text");
		return Boolean(old.path);
	} catch {
		return false;
	}
}

// routes.json: [ "/path", { "path": "/path", "kind": "echo", "note": "words", "protocol": "mqtt" }, ... ]
async function loadRoutes(known) {
	try {
		const reply = await fetch("routes.json");
		const list = reply.ok ? await reply.json() : [];
		const clean = list.slice(0, 50).map(r => typeof r === "string" ? { path: r } : r)
			.filter(r => r && typeof r.path === "string")
			.map(r => ({ path: r.path.slice(0, 200), kind: String(r.kind || ""), note: String(r.note || "").slice(0, 80),
				protocol: String(r.protocol || "").slice(0, 200) }));
		if (!clean.length)
			return;
		routes = clean;
		if (!known && !ws)
			$("path").value = routes[0].path;
		showRoutes();
	} catch { /* the defaults stay */ }
}

function helpWords() {
	$("where").textContent = location.host;
	$("help-origin").textContent = "--origin " + location.origin;
	$("help-tls").textContent = location.protocol === "https:" ?
		"This page came from the same address and port as its WebSockets. So if your browser warned about a self-signed certificate " +
		"and you accepted it to get here, wss:// to this address works too; there is nothing more to accept." :
		"This page came without encryption, and so do its WebSockets (ws://). Use it on this machine or on a wire that you trust.";
}

$("connect-form").addEventListener("submit", e => {
	e.preventDefault();
	if (ws)
		disconnect();
	else
		connect();
});
$("route-list").addEventListener("change", e => {
	const chosen = routes.find(r => r.path === e.target.value);
	$("path").value = chosen.path;
	$("protocol").value = chosen.protocol || "";
	remember();
});
$("path").addEventListener("input", markRoute);
$("modes").addEventListener("change", showMode);
$("send-form").addEventListener("submit", e => {
	e.preventDefault();
	send();
});
for (const area of [$("text"), $("hex")]) {
	area.addEventListener("input", () => grow(area));
	area.addEventListener("keydown", e => {
		if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
			e.preventDefault();
			if (!transfer)
				send();
		}
	});
}
$("clear").addEventListener("click", clearLog);
$("latest").addEventListener("click", toEnd);
$("log").addEventListener("scroll", scrolled, { passive: true });
$("log").addEventListener("toggle", scrolled, true);
for (const hand of ["wheel", "touchmove", "pointerdown", "keydown"])
	$("log").addEventListener(hand, () => {
		touched = performance.now();
	}, { passive: true });
new ResizeObserver(() => {
	if (following)
		toEnd();
}).observe($("log"));
document.addEventListener("dragover", e => {
	if (e.dataTransfer.types.includes("Files"))
		e.preventDefault();
});
document.addEventListener("drop", e => {
	const file = e.dataTransfer.files[0];
	if (!file)
		return;
	e.preventDefault();
	if (ws && ws.readyState === WebSocket.OPEN && !transfer)
		sendFile(file);
	else
		notice("bad", "Not sent", "Connect first, then drop the file.");
});

const known = recall();
resetNumbers();
helpWords();
showRoutes();
showMode();
setState("closed");
loadRoutes(known);
