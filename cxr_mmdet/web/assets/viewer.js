// Image and table: hovering or choosing one marks the other; drawing, moving and zooming on the live image.
const say = (name, data) => trigger(name, data);
const all = (key) => document.querySelectorAll(`[data-key="${CSS.escape(key)}"]`);
const live = () => element.querySelector('.cxr-live');
const drawing = () => document.body.dataset.cxrDraw === '1';

function place(event, box) {
  const share = (value, low, size) => Math.min(Math.max((value - low) / size, 0), 1);
  return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
}

element.addEventListener('mouseover', (event) => {
  const hit = event.target.closest('[data-key]');
  document.querySelectorAll('.is-hovered').forEach((other) => other.classList.remove('is-hovered'));
  if (hit) all(hit.dataset.key).forEach((other) => other.classList.add('is-hovered'));
});
element.addEventListener('mouseleave', () => {
  document.querySelectorAll('.is-hovered').forEach((other) => other.classList.remove('is-hovered'));
});

let start = null;
element.addEventListener('pointerdown', (event) => {
  const stage = event.target.closest('.cxr-live');
  if (!stage || event.button !== 0) return;
  const zoomed = Number(stage.closest('.cxr-panes').dataset.zoom) > 1;
  if (!drawing() && !zoomed) return;
  start = { at: place(event, stage.getBoundingClientRect()), moved: false };
  if (drawing()) event.preventDefault();
  stage.setPointerCapture(event.pointerId);
});
element.addEventListener('pointermove', (event) => {
  if (!start) return;
  const stage = live();
  const at = place(event, stage.getBoundingClientRect());
  start.moved = start.moved || Math.hypot(at[0] - start.at[0], at[1] - start.at[1]) > 0.008;
  if (!drawing() || !start.moved) return;
  const rubber = stage.querySelector('.cxr-rubber');
  rubber.hidden = false;
  rubber.style.left = `${100 * Math.min(at[0], start.at[0])}%`;
  rubber.style.top = `${100 * Math.min(at[1], start.at[1])}%`;
  rubber.style.width = `${100 * Math.abs(at[0] - start.at[0])}%`;
  rubber.style.height = `${100 * Math.abs(at[1] - start.at[1])}%`;
});
element.addEventListener('pointerup', (event) => {
  if (!start) return;
  const stage = live();
  const at = place(event, stage.getBoundingClientRect());
  const from = start;
  start = null;
  if (drawing()) {
    if (!from.moved) return;
    say('drawn', { box: [...from.at, ...at] });
    document.querySelector('#cxr-draw').click();
  } else if (from.moved) {
    say('pan', { by: [from.at[0] - at[0], from.at[1] - at[1]] });
  } else {
    const under = document.elementsFromPoint(event.clientX, event.clientY).find((item) => item.dataset.key);
    if (under) choose(under.dataset.key);
  }
});
element.addEventListener('pointercancel', () => { start = null; });

function choose(key) {
  document.querySelectorAll('.is-selected').forEach((other) => other.classList.remove('is-selected'));
  all(key).forEach((other) => other.classList.add('is-selected'));
  say('chosen', { key });
}
element.addEventListener('click', (event) => {
  const example = event.target.closest('[data-example]');
  if (example) return say('example', { index: Number(example.dataset.example) });
  const hit = event.target.closest('[data-key]');
  if (hit && !drawing()) choose(hit.dataset.key);
});

const ARROWS = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
element.addEventListener('keydown', (event) => {
  const row = event.target.closest('tr[data-key]');
  if (row && (event.key === 'Enter' || event.key === ' ')) {
    event.preventDefault();
    choose(row.dataset.key);
  } else if (row && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) {
    event.preventDefault();
    const next = event.key === 'ArrowDown' ? row.nextElementSibling : row.previousElementSibling;
    if (next && next.dataset.key) next.focus();
  } else if (event.target.closest('.cxr-live')) {
    if (event.key in ARROWS) say('pan', { by: ARROWS[event.key] });
    else if (event.key === '+' || event.key === '=') say('zoomed', { factor: 1.25 });
    else if (event.key === '-') say('zoomed', { factor: 0.8 });
    else return;
    event.preventDefault();
  }
});

// A new image replaces the one that had the focus: keyboard users stay where they were.
let focused = null;
element.addEventListener('focusin', (event) => {
  focused = event.target.dataset.key || (event.target.classList.contains('cxr-live') ? 'live' : null);
});
watch('value', () => {
  if (!focused || (document.activeElement && document.activeElement !== document.body)) return;
  const again = focused === 'live' ? live() : element.querySelector(`tr[data-key="${CSS.escape(focused)}"]`);
  if (again) again.focus({ preventScroll: true });
});
