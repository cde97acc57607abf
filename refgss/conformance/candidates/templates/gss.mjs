// A candidate in JavaScript without dependencies: a program that speaks the protocol of chapter 13.
//
//     refgss check --candidate 'cmd:node gss.mjs'
//
// Everything is computed in binary64 and rounded to the precision of the case when it is written.
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
    const kind = { F32: Float32Array, F64: Float64Array, I32: Int32Array }[t.dtype];
    tensors[name] = { shape: t.shape, data: Float64Array.from(new kind(bytes)) };
  }
  return tensors;
}

function writeTensors(path, tensors, precision) {
  const header = {}, parts = [];
  let end = 0;
  for (const [name, { shape, data }] of Object.entries(tensors)) {
    const numbers = precision === "f32" ? Float32Array.from(data) : data;
    header[name] = { dtype: precision.toUpperCase(), shape, data_offsets: [end, (end += numbers.byteLength)] };
    parts.push(Buffer.from(numbers.buffer));
  }
  const text = Buffer.from(JSON.stringify(header).padEnd(8 * Math.ceil(JSON.stringify(header).length / 8)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, ...parts]));
}

// ---- complex numbers as [re, im] ----------------------------------------------------------------

const times = ([a, b], [c, d]) => [a * c - b * d, a * d + b * c];
const exp = ([a, b]) => [Math.exp(a) * Math.cos(b), Math.exp(a) * Math.sin(b)];
const over = ([a, b], [c, d]) => {
  const scale = Math.max(Math.abs(c), Math.abs(d)); // so that |z|² neither overflows nor vanishes
  const [x, y] = [c / scale, d / scale], m = (x * x + y * y) * scale;
  return [(a * x + b * y) / m, (b * x - a * y) / m];
};

// (e^z - 1)/z without cancellation: cos b - 1 = -2 sin²(b/2)
function phi([a, b]) {
  if (a === 0 && b === 0) return [1, 0];
  const re = Math.expm1(a) * Math.cos(b) - 2 * Math.sin(b / 2) ** 2;
  return over([re, Math.exp(a) * Math.sin(b)], [a, b]);
}

const complexAt = ({ data }, i) => [data[2 * i], data[2 * i + 1]];

// ---- refusing -----------------------------------------------------------------------------------

class Unclaimed extends Error {}

function refuseUnless(condition, sentence) {
  if (!condition) throw new Error(sentence);
}

function checkModes(lam, c, delta, form) {
  if (!["zoh", "bilinear"].includes(form.method)) throw new Unclaimed(`method ${form.method}`);
  if (delta.shape.length) throw new Unclaimed("steps of their own for each channel");
  refuseUnless(lam.shape.length === 2 && c.shape.length === 3 && c.shape[1] === lam.shape[0],
    "lam must be (N,2) and c (H,N,2)");
  refuseUnless(lam.data.every(Number.isFinite), "lam must be finite");
  refuseUnless(lam.data.every((x, i) => i % 2 || x <= 0), "Re lam must not be positive");
  refuseUnless(delta.data[0] > 0 && Number.isFinite(delta.data[0]), "delta must be positive and finite");
}

// ---- the ops ------------------------------------------------------------------------------------

// Ā and C̃ = s C B̄ of every mode (chapter 2).
function modes(lam, c, delta, form) {
  const [H, N] = c.shape, step = delta.data[0], s = form.pairs ? 2 : 1;
  const z = Array.from({ length: N }, (_, n) => complexAt(lam, n).map(x => step * x));
  const abar = z.map(([a, b]) => form.method === "zoh" ? exp([a, b]) : over([1 + a / 2, b / 2], [1 - a / 2, -b / 2]));
  const bbar = z.map(([a, b]) => form.method === "zoh" ? phi([a, b]) : over([1, 0], [1 - a / 2, -b / 2]));
  const weight = (h, n) => times(complexAt(c, h * N + n), bbar[n].map(x => s * step * x));
  return { H, N, z, abar, weight };
}

// K[h,l] = Re Σ_n C̃[h,n] Ā[n]^l
function ssm_kernel({ lam, c, delta }, { length, form }) {
  refuseUnless(length >= 0 && length < 2 ** 31, "length must not be negative");
  checkModes(lam, c, delta, form);
  const { H, N, z, abar, weight } = modes(lam, c, delta, form);
  const logs = form.method === "zoh" ? z : abar.map(([a, b]) => [Math.log(Math.hypot(a, b)), Math.atan2(b, a)]);
  const k = new Float64Array(H * length);
  for (let n = 0; n < N; n++)
    for (let l = 0; l < length; l++) {
      const power = l === 0 ? [1, 0] : exp([l * logs[n][0], l * logs[n][1]]);
      for (let h = 0; h < H; h++) k[h * length + l] += times(weight(h, n), power)[0];
    }
  return { k: { shape: [H, length], data: k } };
}

// y[b,l,h] = Σ_j k[h,j] u[b,l-j,h]
function causal_conv({ u, k }) {
  refuseUnless(u.shape.length === 3 && k.shape.length === 2 && u.shape[2] === k.shape[0],
    "u must be (B,L,H) and k (H,Lk)");
  const [B, L, H] = u.shape, taps = k.shape[1], y = new Float64Array(B * L * H);
  for (let b = 0; b < B; b++)
    for (let l = 0; l < L; l++)
      for (let h = 0; h < H; h++) {
        let sum = 0;
        for (let j = 0; j <= l && j < taps; j++) sum += k.data[h * taps + j] * u.data[(b * L + l - j) * H + h];
        y[(b * L + l) * H + h] = sum;
      }
  return { y: { shape: u.shape, data: y } };
}

// x' = Ā x + u, y = Re Σ_n C̃ x'
function ssm_step({ u, lam, c, state, delta }, { form }) {
  checkModes(lam, c, delta, form);
  const { H, N, abar, weight } = modes(lam, c, delta, form);
  refuseUnless(u.shape.length === 2 && u.shape[1] === H, "u must be (B,H)");
  const B = u.shape[0], shape = [B, H, N, 2];
  state ??= { shape, data: new Float64Array(2 * B * H * N) };
  refuseUnless(String(state.shape) === String(shape), "state must be (B,H,N,2)");
  const y = new Float64Array(B * H), next = new Float64Array(2 * B * H * N);
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++)
      for (let n = 0; n < N; n++) {
        const i = (b * H + h) * N + n, old = complexAt(state, i);
        const x = times(abar[n], old);
        x[0] += u.data[b * H + h];
        next.set(x, 2 * i);
        y[b * H + h] += times(weight(h, n), x)[0];
      }
  return { y: { shape: u.shape, data: y }, state: { shape, data: next } };
}

function layer_norm({ x, weight, bias }, { eps }) {
  const E = x.shape.at(-1);
  refuseUnless(E > 0 && String(weight.shape) === String([E]) && String(bias.shape) === String([E]),
    "x must end in the axis E of weight (E) and bias (E)");
  refuseUnless(eps > 0, "eps must be positive");
  const y = new Float64Array(x.data.length);
  for (let row = 0; row < y.length; row += E) {
    const values = x.data.subarray(row, row + E);
    const mean = values.reduce((a, b) => a + b, 0) / E;
    const variance = values.reduce((a, v) => a + (v - mean) ** 2, 0) / E;
    values.forEach((v, e) => { y[row + e] = (v - mean) / Math.sqrt(variance + eps) * weight.data[e] + bias.data[e]; });
  }
  return { y: { shape: x.shape, data: y } };
}

// erfc: 1 - erf by a series of positive terms for small x, a continued fraction for large x.
function erfc(x) {
  if (x < 0) return 2 - erfc(-x);
  if (x > 27) return 0; // e^{-x²} is below the smallest number
  const scale = Math.exp(-x * x) / Math.sqrt(Math.PI);
  if (x < 2) {
    let term = 2 * x, sum = 0;
    for (let n = 1; sum + term !== sum; n++) { sum += term; term *= 2 * x * x / (2 * n + 1); }
    return 1 - scale * sum;
  }
  let fraction = x;
  for (let n = 120; n > 0; n--) fraction = x + n / 2 / fraction;
  return scale / fraction;
}

const gelu = ({ x }) =>
  ({ y: { shape: x.shape, data: x.data.map(v => v * erfc(-v / Math.SQRT2) / 2) } });

// ---- the protocol -------------------------------------------------------------------------------

const OPS = { ssm_kernel, causal_conv, ssm_step, layer_norm, gelu };

function answer(message) {
  const { case: number, op, options, precision, inputs, outputs } = message;
  if (!(op in OPS)) return { type: "unclaimed", case: number };
  try {
    writeTensors(outputs, OPS[op](readTensors(inputs), options), precision);
    return { type: "done", case: number };
  } catch (e) {
    return { type: e instanceof Unclaimed ? "unclaimed" : "error", case: number, message: e.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (message.type === "bye") break;
  const reply = message.type === "case" ? answer(message) : {
    type: "capabilities", protocol: 1, name: "gss.mjs", version: "1.0",
    ops: Object.keys(OPS), profiles: ["f32", "f64"],
  };
  process.stdout.write(JSON.stringify(reply) + "\n");
}
