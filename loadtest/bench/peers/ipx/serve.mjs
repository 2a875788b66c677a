// ipx as a server of the pictures of one folder: serve.mjs FOLDER PORT

import http from "node:http";
import path from "node:path";
import { pathToFileURL } from "node:url";

// Installed elsewhere, so that a checkout stays clean.
const installed = path.join(process.env.IPX_FOLDER, "node_modules/ipx/dist/index.mjs");
const { createIPX, createIPXNodeServer, ipxFSStorage } = await import(pathToFileURL(installed));

const [folder, port] = [process.argv[2], Number(process.argv[3])];
const ipx = createIPX({ storage: ipxFSStorage({ dir: folder }) });
http.createServer(createIPXNodeServer(ipx)).listen(port, "127.0.0.1");
