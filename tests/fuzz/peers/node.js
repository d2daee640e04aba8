// `node node.js FD`: Node's HTTP server on an inherited socket; every answer says what was read, in `x-seen`.
const http = require("node:http");

const server = http.createServer((request, response) => {
  let length = 0;
  request.on("data", (part) => { length += part.length; });
  request.on("end", () => {
    const values = (wanted) => {
      const found = [];
      for (let at = 0; at < request.rawHeaders.length; at += 2) {
        if (request.rawHeaders[at].toLowerCase() === wanted) found.push(request.rawHeaders[at + 1]);
      }
      return found;
    };
    const seen = {
      method: request.method, target: request.url, host: values("host"), role: values("x-role"),
      source: values("x-limen-source"), length,
    };
    response.setHeader("x-seen", Buffer.from(JSON.stringify(seen)).toString("base64"));
    response.setHeader("content-length", "0");
    response.end();
  });
});
server.keepAliveTimeout = 60000;
server.listen({ fd: Number(process.argv[2]) });
