// Writes the Python reader that kaitai-struct-compiler generates from a .ksy file.
//
// Usage: node compile.js TOOLS KSY DIRECTORY. TOOLS is where tools/install put the compiler.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { createRequire } = require("node:module");

const [tools, ksy, directory] = process.argv.slice(2).map((argument) => path.resolve(argument));
const required = createRequire(path.join(tools, "package.json"));
const compiler = required("kaitai-struct-compiler");
const format = required("js-yaml").load(fs.readFileSync(ksy, "utf8"));

compiler.compile("python", format, null, false).then(
  (files) => {
    for (const [name, text] of Object.entries(files)) {
      fs.writeFileSync(path.join(directory, name), text);
    }
  },
  (error) => {
    process.stderr.write(`${ksy}: ${error}\n`);
    process.exitCode = 1;
  },
);
