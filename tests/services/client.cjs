// A client made of Node's `ws`: node client.cjs
//
// Every line that is read is a command in JSON, every line that is written an event. There is one connection at a time,
// the one that was opened last.
//
//   commands: {do: "open", url, protocols, ...options of ws}, {do: "send", text | base64, ...options of ws},
//             {do: "ping" | "pong", data}, {do: "close", code, reason}, {do: "terminate"}
//   events:   {event: "open", protocol, extensions}, {event: "message", text | base64}, {event: "ping" | "pong", data},
//             {event: "close", code, reason}, {event: "refused", status}, {event: "error", message}
"use strict";

const readline = require("node:readline");
const { WebSocket } = require("ws");

const tell = (event, rest = {}) => console.log(JSON.stringify({ event, ...rest }));

let ws;

function open({ url, protocols, ...options }) {
  ws = new WebSocket(url, protocols ?? [], options);
  ws.on("open", () => tell("open", { protocol: ws.protocol, extensions: ws.extensions }));
  ws.on("message", (data, binary) =>
    tell("message", binary ? { base64: data.toString("base64") } : { text: data.toString() }),
  );
  ws.on("ping", (data) => tell("ping", { data: data.toString() }));
  ws.on("pong", (data) => tell("pong", { data: data.toString() }));
  ws.on("unexpected-response", (_, response) => tell("refused", { status: response.statusCode }));
  ws.on("error", (error) => tell("error", { message: error.message }));
  ws.on("close", (code, reason) => tell("close", { code, reason: reason.toString() }));
}

const commands = {
  open,
  send: ({ text, base64, ...options }) => ws.send(text ?? Buffer.from(base64, "base64"), options),
  ping: ({ data }) => ws.ping(data),
  pong: ({ data }) => ws.pong(data),
  close: ({ code, reason }) => ws.close(code, reason),
  terminate: () => ws.terminate(),
};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const command = JSON.parse(line);
  commands[command.do](command);
});
