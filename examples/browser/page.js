// A network of clips on a video, in the browser alone: frames by <video> and <canvas>, the network by onnxruntime-web.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more of them need a server that isolates the page (COOP and COEP headers)

const SHOWN = 5;
const MIDDLE = 0.5; // of a frame's time: at its beginning rounding may show the one before

// ---- the network

/** Of a file's bytes: its session, what `uniformer export` wrote into it, and the shape of one view. */
export async function openNetwork(bytes) {
  const contract = contractIn(bytes);
  if (contract.input?.sampling == null) throw new Error("expected a network of clips, found one of images");
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  return { session, contract, shape: session.inputMetadata[0].shape.slice(1) };
}

/** One view, C x T x H x W floats, to logits. Told in four or five dimensions, it is the same memory. */
export async function logitsOf({ session, shape }, view) {
  const answer = await session.run({ views: new ort.Tensor("float32", view, [1, ...shape]) });
  return Array.from(answer.logits.data);
}

/** The contract lies in the model's `metadata_props` (field 14 of ONNX's ModelProto) under "uniformer". */
function contractIn(bytes) {
  const text = new TextDecoder();
  for (const [field, value] of fieldsOf(bytes)) {
    if (field !== 14) continue;
    const entry = Object.fromEntries(fieldsOf(value));
    if (text.decode(entry[1]) === "uniformer") return JSON.parse(text.decode(entry[2]));
  }
  throw new Error("expected a file written by uniformer export, found no description of a model in it");
}

/** The outermost fields of a protocol buffer: pairs of number and value, a number or bytes. */
function* fieldsOf(bytes) {
  let at = 0;
  const number = () => {
    for (let value = 0, scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new Error("expected an ONNX file, found one that ends too early");
  };
  while (at < bytes.length) {
    const tag = number();
    if (tag % 8 === 0) yield [Math.floor(tag / 8), number()];
    else if (tag % 8 === 2) {
      const length = number();
      yield [Math.floor(tag / 8), bytes.subarray(at, (at += length))];
    } else throw new Error("expected an ONNX file, found something else");
  }
}

// ---- the frames

/** Which frames make the clips, as `uniformer/reading/sampling.py` has it. */
export function clipIndices({ sampling, stride, frames, clips }, count) {
  const each = (n, of) => Array.from({ length: n }, (_, i) => of(i));
  if (sampling === "sparse") {
    const segment = (count - 1) / frames;
    return each(clips, (clip) =>
      each(frames, (i) => roundEven(segment * i) + Math.floor((segment / (clips + 1)) * (clip + 1))));
  }
  const window = Math.max(stride * frames, 1), slack = Math.max(count - window, 0);
  const step = (window - 1) / Math.max(frames - 1, 1);
  return each(clips, (clip) => {
    const start = clips === 1 ? Math.floor(slack / 2) : clip * Math.floor(slack / (clips - 1));
    return each(frames, (i) => Math.min(Math.floor(start + step * i), count - 1));
  });
}

const roundEven = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** A loaded <video> to views, each C x T x H x W floats: short side to `resize`, the centre, normalised. */
export async function viewsOf({ input }, video) {
  const rate = input.fps ?? 30; // browsers do not tell a file's own
  const views = [];
  for (const indices of clipIndices(input, Math.max(Math.round(video.duration * rate), 1))) {
    const [height, width] = input.size;
    const view = new Float32Array(3 * indices.length * height * width);
    for (const [place, index] of indices.entries()) {
      await seek(video, Math.min((index + MIDDLE) / rate, video.duration));
      write(view, place, indices.length, pixelsOf(video, input), input);
    }
    views.push(view);
  }
  return views;
}

function seek(video, time) {
  return new Promise((resolve, reject) => {
    video.addEventListener("seeked", resolve, { once: true });
    video.addEventListener("error", () => reject(new Error("the video cannot be decoded")), { once: true });
    video.currentTime = time;
  });
}

function pixelsOf(video, { size: [height, width], resize }) {
  const scale = resize / Math.min(video.videoWidth, video.videoHeight);
  const [wide, high] = [Math.round(video.videoWidth * scale), Math.round(video.videoHeight * scale)];
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(video, Math.round((width - wide) / 2), Math.round((height - high) / 2), wide, high);
  return context.getImageData(0, 0, width, height).data; // red, green, blue, alpha
}

function write(view, frame, frames, pixels, { mean, std, channels }) {
  const plane = pixels.length / 4;
  for (let c = 0; c < 3; c++) {
    const from = channels === "bgr" ? 2 - c : c;
    const to = (c * frames + frame) * plane;
    for (let i = 0; i < plane; i++) view[to + i] = (pixels[4 * i + from] / 255 - mean[c]) / std[c];
  }
}

// ---- the answer

/** Of all views the labels, best first: [{name, score}]. */
export async function labelsOf(network, video) {
  const { classes, input } = network.contract;
  const answers = [];
  for (const view of await viewsOf(network.contract, video)) answers.push(await logitsOf(network, view));
  const scores = input.average === "probabilities" ? mean(answers.map(softmax)) : softmax(mean(answers));
  const labels = scores.map((score, i) => ({ name: classes[i] ?? `class ${i}`, score }));
  return labels.sort((a, b) => b.score - a.score);
}

const mean = (rows) => rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);

function softmax(logits) {
  const most = Math.max(...logits), shares = logits.map((x) => Math.exp(x - most));
  const sum = shares.reduce((a, b) => a + b);
  return shares.map((x) => x / sum);
}

// ---- the page

const [said, list, video] = ["said", "labels", "video"].map((id) => document.getElementById(id));
let network;

async function shown(work) {
  try {
    await work();
  } catch (error) {
    said.textContent = error.message;
  }
}

async function answer() {
  list.replaceChildren();
  if (!network || !video.src) return;
  said.textContent = "computing ...";
  const began = performance.now();
  const labels = await labelsOf(network, video);
  for (const { name, score } of labels.slice(0, SHOWN)) {
    const row = document.createElement("li"), share = document.createElement("span");
    share.textContent = `${(100 * score).toFixed(1)} %`;
    row.append(name, share);
    list.append(row);
  }
  said.textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`;
}

document.getElementById("network").addEventListener("change", ({ target }) => shown(async () => {
  network = undefined;
  said.textContent = "reading the network ...";
  network = await openNetwork(new Uint8Array(await target.files[0].arrayBuffer()));
  said.textContent = `${network.contract.id ?? target.files[0].name}: choose a video`;
  await answer();
}));

document.getElementById("clip").addEventListener("change", ({ target }) => shown(async () => {
  URL.revokeObjectURL(video.src);
  video.src = URL.createObjectURL(target.files[0]);
  video.hidden = false;
  await new Promise((resolve, reject) => {
    video.onloadeddata = resolve;
    video.onerror = () => reject(new Error(`${target.files[0].name}: this browser cannot decode it`));
  });
  await answer();
}));
