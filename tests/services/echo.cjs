// An echo server made of Node's `ws`: node echo.cjs PORT [CERTIFICATE KEY]
//
// The query of the request's target says how a connection behaves:
//
//   deflate=JSON       permessage-deflate with these options of ws ({} for its defaults); without it, none
//   protocols=a,b      the subprotocols that it chooses from, in the client's order; without it, the client's first
//   headers=JSON       an array of strings that replace the lines of the 101 response named alike, or are added to it
//   status=CODE        refuses with this status instead
//   commands=1         takes each text message as a command instead of sending it back (see `commands`)
//   fragments=SIZE     sends back in fragments of that size
//   id=NAME            writes a line of JSON to the log when the connection has ended: {id, code, reason}
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const { WebSocketServer } = require("ws");

const [port, certificate, key] = process.argv.slice(2);

const commands = {
  close: (ws, { code, reason }) => ws.close(code, reason),
  terminate: (ws) => ws.terminate(),
  end: (ws) => ws._socket.end(),
  ping: (ws, { data }) => ws.ping(data),
  pong: (ws, { data }) => ws.pong(data),
  send: (ws, { text, size }) => ws.send(text ?? Buffer.alloc(size, "x")),
};

function sendInFragments(ws, data, binary, size) {
  for (let start = 0; ; start += size) {
    const fin = start + size >= data.length;
    ws.send(data.subarray(start, start + size), { binary, fin });
    if (fin) return;
  }
}

function serve(ws, query) {
  const size = Number(query.get("fragments"));
  ws.on("message", (data, binary) => {
    if (query.has("commands") && !binary) {
      const command = JSON.parse(data);
      commands[command.do](ws, command);
    } else if (size) {
      sendInFragments(ws, data, binary, size);
    } else {
      ws.send(data, { binary });
    }
  });
  if (query.has("commands")) ws.on("pong", (data) => ws.send(`pong ${data}`));
  ws.on("error", (error) => console.log(JSON.stringify({ id: query.get("id"), error: error.message })));
  ws.on("close", (code, reason) => {
    if (query.has("id")) console.log(JSON.stringify({ id: query.get("id"), code, reason: reason.toString() }));
  });
}

function rewrite(lines, replacements) {
  const name = (line) => (line.startsWith("HTTP/") ? "HTTP/" : line.split(":")[0].toLowerCase());
  for (const replacement of replacements) {
    const index = lines.findIndex((line) => name(line) === name(replacement));
    if (index < 0) lines.push(replacement);
    else lines[index] = replacement.replace("*", lines[index].slice(lines[index].indexOf(":") + 1).trim());
  }
}

const server = certificate
  ? https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) })
  : http.createServer();

server.on("upgrade", (request, socket, head) => {
  const query = new URL(request.url, "http://localhost").searchParams;
  if (query.has("status")) {
    socket.end(`HTTP/1.1 ${query.get("status")} Refused\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno`);
    return;
  }
  const options = { noServer: true, maxPayload: 64 << 20 };
  if (query.has("deflate")) options.perMessageDeflate = { threshold: 0, ...JSON.parse(query.get("deflate")) };
  if (query.has("protocols")) {
    const known = query.get("protocols").split(",");
    options.handleProtocols = (offered) => [...offered].find((protocol) => known.includes(protocol)) ?? false;
  }
  const acceptor = new WebSocketServer(options);
  acceptor.on("headers", (lines) => rewrite(lines, JSON.parse(query.get("headers") ?? "[]")));
  acceptor.handleUpgrade(request, socket, head, (ws) => serve(ws, query));
});

server.listen(Number(port), "127.0.0.1");
