// A click on anything with a moment goes there in the film; while it plays, the row of that moment is marked.
const by = id => document.getElementById(id);
document.addEventListener("click", event => {
  const there = event.target.closest("[data-start]");
  if (there && by("film")) by("film").currentTime = Number(there.dataset.start) + 0.001;  // within its first frame
});
const mark = event => {
  if (event.target.id !== "film") return;
  const now = event.target.currentTime;
  for (const row of document.querySelectorAll("[data-end]"))
    row.ariaCurrent = Number(row.dataset.start) <= now && now < Number(row.dataset.end) ? "time" : null;
};
for (const kind of ["timeupdate", "seeking"]) document.addEventListener(kind, mark, true);  // they do not bubble
document.addEventListener("error", event => {
  if (event.target.id === "film") event.target.nextElementSibling.hidden = false;
}, true);

// The camera is on while its part of the page is open; what it takes is given to the page as a file.
let stream, recorder;
const camera = async () => {
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
    by("camera").srcObject = stream;
  } catch (error) {  // no camera, no leave to use it, or an address that browsers give none to
    by("no-camera").textContent = `No camera: ${error.message}`;
    by("no-camera").hidden = false;
  }
};
document.addEventListener("toggle", event => {
  if (event.target.id !== "record") return;
  if (event.target.open) return camera();
  stream?.getTracks().forEach(track => track.stop());
  stream = undefined;
}, true);
const give = (blob, name) => {
  const files = new DataTransfer(), input = document.querySelector("#taken input[type=file]");
  files.items.add(new File([blob], name, {type: blob.type}));
  input.files = files.files;
  input.dispatchEvent(new Event("change", {bubbles: true}));
};
document.addEventListener("click", async event => {
  if (event.target.id === "shot" && stream) {
    const canvas = new OffscreenCanvas(by("camera").videoWidth, by("camera").videoHeight);
    canvas.getContext("2d").drawImage(by("camera"), 0, 0);
    give(await canvas.convertToBlob({type: "image/png"}), "picture.png");
  }
  if (event.target.id !== "take" || !stream) return;
  if (recorder) return recorder.stop();
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = part => parts.push(part.data);
  recorder.onstop = () => {
    give(new Blob(parts, {type: recorder.mimeType}), recorder.mimeType.includes("mp4") ? "film.mp4" : "film.webm");
    by("take").textContent = "Record a film";
    recorder = undefined;
  };
  recorder.start();
  by("take").textContent = "Stop";
});
