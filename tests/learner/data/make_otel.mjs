// Writes the golden sample of OTLP JSON: OpenTelemetry's SDK for Node with its HTTP instrumentation and exporter.
//
// npm install @opentelemetry/sdk-trace-node @opentelemetry/exporter-trace-otlp-http @opentelemetry/instrumentation \
//   @opentelemetry/instrumentation-http @opentelemetry/resources, in the directory that this is copied into; then
// node make_otel.mjs OUT
import { createServer } from "node:http";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const role = process.env.ROLE;

function instrument(name, address) {
  const { NodeTracerProvider } = require("@opentelemetry/sdk-trace-node");
  const { SimpleSpanProcessor } = require("@opentelemetry/sdk-trace-base");
  const { OTLPTraceExporter } = require("@opentelemetry/exporter-trace-otlp-http");
  const { HttpInstrumentation } = require("@opentelemetry/instrumentation-http");
  const { registerInstrumentations } = require("@opentelemetry/instrumentation");
  const { resourceFromAttributes } = require("@opentelemetry/resources");
  const exporter = new OTLPTraceExporter({ url: process.env.COLLECTOR });
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({
      "service.name": name, "service.version": "1.4.0", "k8s.pod.name": `${name}-0`, "k8s.pod.ip": address,
    }),
    spanProcessors: [new SimpleSpanProcessor(exporter)],
  });
  provider.register();
  registerInstrumentations({
    tracerProvider: provider,
    instrumentations: [new HttpInstrumentation({
      ignoreOutgoingRequestHook: (request) => request.path === "/v1/traces",
    })],
  });
  return provider;
}

if (role === "server") {
  instrument("db", "10.244.0.8");
  const http = require("node:http");
  const server = http.createServer((request, response) => {
    response.statusCode = request.url.startsWith("/missing") ? 404 : 200;
    response.end("ok");
  });
  server.listen(Number(process.env.PORT), "127.0.0.1", () => console.log("ready"));
} else if (role === "client") {
  const provider = instrument("cart", "10.244.0.7");
  const http = require("node:http");
  const ask = (path, method) => new Promise((done) => {
    http.request({ host: "127.0.0.1", port: process.env.PORT, path, method }, (response) => {
      response.resume();
      response.on("end", done);
    }).end();
  });
  await ask("/orders/17?x=1", "GET");
  await ask("/orders", "POST");
  await ask("/missing", "GET");
  await provider.forceFlush();
} else {
  const lines = [];
  const collector = createServer((request, response) => {
    let body = "";
    request.on("data", (part) => { body += part; });
    request.on("end", () => { lines.push(body); response.setHeader("content-type", "application/json"); response.end("{}"); });
  });
  await new Promise((done) => collector.listen(0, "127.0.0.1", done));
  const env = { ...process.env, COLLECTOR: `http://127.0.0.1:${collector.address().port}/v1/traces`, PORT: "18080" };
  const server = spawn(process.execPath, [process.argv[1]], { env: { ...env, ROLE: "server" } });
  await new Promise((done) => server.stdout.once("data", done));
  const client = spawn(process.execPath, [process.argv[1]], { env: { ...env, ROLE: "client" }, stdio: "inherit" });
  await new Promise((done) => client.once("exit", done));
  while (lines.length < 6) await new Promise((done) => setTimeout(done, 100));
  server.kill();
  collector.close();
  writeFileSync(process.argv[2], lines.join("\n") + "\n");
}
