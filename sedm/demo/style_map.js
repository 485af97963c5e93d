// Points as buttons on a plane: one tab stop, arrows walk from point to point from left to right, Enter picks.
function render({ model, el }) {
  el.classList.add("sedm-map");
  const plane = document.createElement("div");
  plane.className = "sedm-plane";
  const caption = document.createElement("div");
  caption.className = "sedm-caption";
  el.append(plane, caption);
  el.dataset.lmSuppressShortcuts = true; // or JupyterLab would take arrow keys and Enter
  const place = (node, x, y) => Object.assign(node.style, { left: `${x * 100}%`, top: `${(1 - y) * 100}%` });
  const hint = "Click a point to pick its style, or use arrow keys and Enter. Dashed: the mixture.";
  let buttons = [];

  function draw() {
    const focused = document.activeElement?.dataset?.name;
    plane.replaceChildren();
    plane.classList.toggle("sedm-many", model.get("points").length > 60);
    const points = [...model.get("points")].sort((a, b) => a.x - b.x);
    buttons = points.map((point, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.name = point.name;
      button.setAttribute("aria-label", `style ${point.name}`);
      button.title = point.name;
      button.tabIndex = index === 0 ? 0 : -1;
      button.style.background = point.colour;
      place(button, point.x, point.y);
      button.addEventListener("click", () => {
        model.set("picked", [point.name, (model.get("picked")[1] || 0) + 1]);
        model.save_changes();
      });
      const show = () => { caption.textContent = point.name; };
      button.addEventListener("mouseenter", show);
      button.addEventListener("focus", show);
      button.addEventListener("mouseleave", () => { caption.textContent = hint; });
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = buttons[(index + step + buttons.length) % buttons.length];
        button.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      });
      plane.append(button);
      return button;
    });
    mark();
    buttons.find((button) => button.dataset.name === focused)?.focus();
  }
  function mark() {
    const marks = model.get("marks"), mixture = model.get("mixture");
    for (const button of buttons) {
      button.textContent = marks[button.dataset.name] || "";
      button.classList.toggle("sedm-used", button.dataset.name in marks);
    }
    plane.querySelector(".sedm-mixture")?.remove();
    if (mixture.length === 2) {
      const ring = document.createElement("span");
      ring.className = "sedm-mixture";
      ring.title = "the mixture";
      place(ring, ...mixture);
      plane.append(ring);
    }
  }
  caption.textContent = hint;
  model.on("change:points", draw);
  model.on("change:marks", mark);
  model.on("change:mixture", mark);
  draw();
}
export default { render };
