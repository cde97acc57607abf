// A scorer in JavaScript without dependencies: it speaks the protocol of chapter 13, as gss.mjs does.
//
//     refgss check --candidate 'cmd:node examples/scores.mjs' --profile scores
//
// Numbers are binary64, integers are written as I64 and texts as their bytes in UTF-8 (U8).
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";

// ---- safetensors: 8 bytes of length, a JSON header, the numbers ---------------------------------

function readTensors(path) {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const tensors = {};
  for (const [name, t] of Object.entries(JSON.parse(file.toString("utf8", 8, start)))) {
    if (name === "__metadata__") continue;
    const bytes = file.buffer.slice(file.byteOffset + start + t.data_offsets[0], file.byteOffset + start + t.data_offsets[1]);
    const kind = { F64: Float64Array, I32: Int32Array }[t.dtype];
    tensors[name] = { shape: t.shape, integer: t.dtype === "I32", data: Array.from(new kind(bytes)) };
  }
  return tensors;
}

function writeTensors(path, outputs) {
  const header = {}, parts = [];
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(outputs)) {
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes.byteLength)] };
    parts.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  }
  const text = Buffer.from(JSON.stringify(header).padEnd(8 * Math.ceil(JSON.stringify(header).length / 8)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

const number = x => ({ dtype: "F64", shape: [], bytes: Float64Array.of(x) });
const numbers = (data, shape = [data.length]) => ({ dtype: "F64", shape, bytes: Float64Array.from(data) });
const integers = data => ({ dtype: "I64", shape: [data.length], bytes: BigInt64Array.from(data.map(BigInt)) });

// ---- refusing -----------------------------------------------------------------------------------

function refuseUnless(condition, sentence) {
  if (!condition) throw new Error(sentence);
}

const rows = ({ shape: [n, K], data }) => Array.from({ length: n }, (_, i) => data.slice(i * K, (i + 1) * K));
const sum = x => x.reduce((a, b) => a + b, 0);
const mean = x => sum(x) / x.length;

function checkConfidence({ shape, data }) {
  refuseUnless(shape.length === 1 && data.length > 0, "confidences must be (n,), at least one");
  refuseUnless(data.every(c => c >= 0 && c <= 1), "confidences must be between 0 and 1");
}

function checkScores({ shape, data }) {
  refuseUnless(shape.length === 1 && data.length > 0, "scores must be (n,), at least one");
  refuseUnless(!data.some(Number.isNaN), "a score is NaN");
}

function checkCorrect({ integer, data }, n) {
  refuseUnless(integer && data.length === n && data.every(r => r === 0 || r === 1), "correct must be 0 or 1, (n,)");
}

// ---- the ops: chapters 23 and 24 ----------------------------------------------------------------

function softmax({ logits }, { temperature }) {
  refuseUnless(logits.shape.length === 2 && logits.shape[1] > 0, "logits must be (n,K)");
  refuseUnless(temperature > 0 && Number.isFinite(temperature), "temperature must be positive and finite");
  const p = rows(logits).map(z => {
    const top = Math.max(...z);
    refuseUnless(Number.isFinite(top), "a logit is NaN or +infinity, or none is finite");
    const weights = z.map(v => Math.exp((v - top) / temperature));
    return weights.map(w => w / sum(weights));
  });
  return { p: numbers(p.flat(), logits.shape) };
}

function calibration_error({ confidence, correct }, { bins, edges, binning }) {
  checkConfidence(confidence);
  const c = confidence.data, r = correct.data, n = c.length;
  checkCorrect(correct, n);
  refuseUnless(Number.isInteger(bins) && bins >= 1 && bins <= 1000, "bins must be 1 to 1000");
  refuseUnless(["right-open", "left-open", "phantom"].includes(edges), "edges");
  refuseUnless(["width", "mass"].includes(binning), "binning");
  const place = c.map(x => {
    if (binning === "mass") return Math.floor(c.filter(y => y < x).length * bins / n);
    if (edges === "phantom" && x === 1) return bins;
    let j = 0;
    while (j < bins - 1 && (edges === "left-open" ? (j + 1) / bins < x : (j + 1) / bins <= x)) j++;
    return j;
  });
  const many = bins + (edges === "phantom" && binning === "width");
  const counts = Array(many).fill(0), hits = Array(many).fill(0), total = Array(many).fill(0);
  place.forEach((j, i) => { counts[j]++; hits[j] += r[i]; total[j] += c[i]; });
  const gap = total.map((s, j) => Math.abs(s - hits[j]));
  const some = counts.map(m => Math.max(m, 1));
  return {
    ece: number(sum(gap) / n),
    mce: number(Math.max(...gap.map((g, j) => g / some[j]))),
    rmsce: number(Math.sqrt(sum(gap.map((g, j) => g * g / some[j])) / n)),
    counts: integers(counts), hits: integers(hits),
    confidence: numbers(total.map((s, j) => s / some[j])),
  };
}

function average_confidence({ target }) {
  checkConfidence(target);
  return { accuracy: number(mean(target.data)) };
}

function atc({ source, correct, target }, { rule, ties }) {
  checkScores(source);
  checkScores(target);
  checkCorrect(correct, source.data.length);
  refuseUnless(["exact", "public"].includes(rule) && ["ge", "gt", "split"].includes(ties), "rule or ties");
  const s = source.data, n = s.length, errors = n - sum(correct.data), rising = [...s].sort((a, b) => a - b);
  const at = rule === "exact" ? rising[errors] ?? Infinity : errors ? rising[errors - 1] : 0;
  const above = x => x.filter(v => v > at).length, equal = x => x.filter(v => v === at).length;
  const split = equal(s) ? (n - errors - above(s)) / equal(s) : 1;
  const weight = { ge: 1, gt: 0, split }[ties];
  const share = x => number((above(x) + weight * equal(x)) / x.length);
  return { threshold: number(at), source_accuracy: share(s), target_accuracy: share(target.data) };
}

// ---- the protocol -------------------------------------------------------------------------------

const OPS = { softmax, calibration_error, average_confidence, atc };

function answer({ case: number, op, options, inputs, outputs }) {
  if (!(op in OPS)) return { type: "unclaimed", case: number };
  try {
    writeTensors(outputs, OPS[op](readTensors(inputs), options));
    return { type: "done", case: number };
  } catch (e) {
    return { type: "error", case: number, message: e.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (message.type === "bye") break;
  const reply = message.type === "case" ? answer(message) : {
    type: "capabilities", protocol: 1, name: "scores.mjs", version: "1.0",
    ops: Object.keys(OPS), profiles: ["scores"],
  };
  process.stdout.write(JSON.stringify(reply) + "\n");
}
