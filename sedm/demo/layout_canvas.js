// A layout drawn pixel by pixel on a small canvas that CSS enlarges; strokes are sent when they end.
function render({ model, el }) {
  const size = model.get("size");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.dataset.lmSuppressShortcuts = true; // or JupyterLab would take the arrow keys and the space bar
  canvas.setAttribute("aria-label", "Layout. Arrow keys move the brush, the space bar paints.");
  const brush = document.createElement("div");
  brush.className = "sedm-brush";
  el.classList.add("sedm-canvas");
  el.append(canvas, brush);
  const context = canvas.getContext("2d");
  let pixels, at = [size / 2, size / 2], painting = false, changed = false;

  function read() {
    const view = model.get("layout_bytes");
    pixels = new Uint8Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    draw();
  }
  function draw() {
    if (pixels.length !== size * size) return;
    const picture = context.createImageData(size, size);
    const colours = model.get("colours"), unknown = model.get("unknown_colour");
    pixels.forEach((k, i) => picture.data.set([...(colours[k] || unknown), 255], 4 * i));
    context.putImageData(picture, 0, 0);
  }
  function showBrush() {
    const width = (2 * model.get("brush_radius") + 1) * 100 / size;
    const [x, y] = at.map((value) => (Math.floor(value) + 0.5) * 100 / size);
    Object.assign(brush.style, {
      width: `${width}%`, height: `${width}%`, left: `${x - width / 2}%`, top: `${y - width / 2}%`,
    });
  }
  function stamp([cx, cy]) {
    const r = model.get("brush_radius"), k = model.get("brush_class");
    for (let y = Math.floor(cy) - r; y <= cy + r; y++)
      for (let x = Math.floor(cx) - r; x <= cx + r; x++) {
        const inside = (x - Math.floor(cx)) ** 2 + (y - Math.floor(cy)) ** 2 <= (r + 0.5) ** 2;
        if (inside && x >= 0 && y >= 0 && x < size && y < size) pixels[y * size + x] = k;
      }
    changed = true;
  }
  function stroke(from, to) {
    const n = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let i = 0; i <= n; i++) stamp([0, 1].map((axis) => from[axis] + (to[axis] - from[axis]) * i / n));
    draw();
  }
  function send() {
    if (!changed) return;
    changed = false;
    model.set("layout_bytes", pixels.slice()); // a DataView would be taken for equal to the one before, and not be sent
    model.save_changes();
  }
  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * size, (event.clientY - box.top) / box.height * size];
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    painting = true;
    at = place(event);
    stroke(at, at);
    showBrush();
  });
  canvas.addEventListener("pointermove", (event) => {
    const to = place(event);
    if (painting) stroke(at, to);
    at = to;
    showBrush();
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => { painting = false; send(); });
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 8 : 2;
    if (moves[event.key]) {
      at = at.map((value, axis) => Math.min(size - 1, Math.max(0, value + step * moves[event.key][axis])));
    } else if (event.key === " ") {
      stroke(at, at);
    } else return;
    event.preventDefault();
    showBrush();
  });
  canvas.addEventListener("keyup", send);
  model.on("change:layout_bytes", read);
  model.on("change:brush_radius", showBrush);
  read();
  showBrush();
  model.send({ shown: true });  // what the kernel drew before this page listened never reached it
}
export default { render };
