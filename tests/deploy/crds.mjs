// Holds resources against the Prometheus operator's definitions: `node crds.mjs FILE`, a JSON list of resources.
// Twice: the CRD's own schema (patterns, ranges, what is required), which lets unknown fields pass, and TypeScript's
// types of it, which do not. Run in the folder with node_modules; ends with status 1 and a line for each fault.
import { readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import ts from "typescript";

const PACKAGE = "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const resources = JSON.parse(readFileSync(process.argv[2], "utf8"));
const faults = [];
const lines = [];
const named = (resource) => `${resource.kind} ${resource.metadata.name}`;

for (const [at, resource] of resources.entries()) {
  const { kind } = resource;
  const module = await import(`${PACKAGE}/${kind}`);
  try {
    new module[kind](resource).validate();
  } catch (error) {
    faults.push(`${named(resource)}: ${error.message}`);
  }
  lines.push(`import { I${kind} as T${at} } from "${PACKAGE}/${kind}"; const r${at}: T${at} = ${JSON.stringify(resource)};`);
}

const file = resolve("resources.ts");
writeFileSync(file, lines.join("\n"));
const options = { noEmit: true, strict: true, skipLibCheck: true, module: ts.ModuleKind.Node16, types: [] };
for (const found of ts.getPreEmitDiagnostics(ts.createProgram([file], options))) {
  const line = found.file && found.start !== undefined ? found.file.getLineAndCharacterOfPosition(found.start).line : 0;
  faults.push(`${named(resources[line])}: ${ts.flattenDiagnosticMessageText(found.messageText, " ")}`);
}

for (const fault of faults) console.error(fault);
process.exit(faults.length ? 1 : 0);
