// @ts-check
// Two pictures in one place: a slider between them, one after the other, or their difference; one zoom for both.

const BLINK_MS = 700;
const PAN_PERCENT = 8;
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function watchComparison() {
  const stage = document.querySelector('[data-compare]');
  if (!(stage instanceof HTMLElement)) return;
  const tools = stage.querySelector('[data-compare-tools]');
  const sides = stage.querySelector('.sides');
  const slide = stage.querySelector('[data-slide]');
  const zoom = stage.querySelector('[data-zoom]');
  if (!(tools instanceof HTMLElement) || !(sides instanceof HTMLElement)) return;
  if (!(slide instanceof HTMLInputElement) || !(zoom instanceof HTMLInputElement)) return;
  tools.hidden = false;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let blinking;

  /** @param {string} mode */
  const show = (mode) => {
    stage.dataset.mode = mode;
    clearInterval(blinking);
    stage.classList.remove('second');
    const box = slide.closest('label');
    if (box) box.hidden = mode !== 'slider';
    if (mode === 'blink') blinking = setInterval(() => stage.classList.toggle('second'), BLINK_MS);
    for (const button of stage.querySelectorAll('[data-set-mode]')) {
      button.setAttribute('aria-pressed', String(button instanceof HTMLElement && button.dataset.setMode === mode));
    }
  };
  stage.addEventListener('click', (event) => {
    const button = event.target instanceof Element ? event.target.closest('[data-set-mode]') : null;
    if (button instanceof HTMLElement) show(button.dataset.setMode ?? 'side');
  });
  slide.addEventListener('input', () => sides.style.setProperty('--at', `${slide.value}%`));
  zoom.addEventListener('input', () => sides.style.setProperty('--zoom', zoom.value));
  const at = { x: 50, y: 50 };
  /** @param {number} x
   * @param {number} y in percent */
  const lookAt = (x, y) => {
    at.x = Math.min(100, Math.max(0, x));
    at.y = Math.min(100, Math.max(0, y));
    sides.style.setProperty('--x', `${at.x}%`);
    sides.style.setProperty('--y', `${at.y}%`);
  };
  // What is looked at is where the pointer is, in both alike.
  sides.addEventListener('pointermove', (event) => {
    const view = event.target instanceof Element ? event.target.closest('.view') : null;
    if (!view) return;
    const { left, top, width, height } = view.getBoundingClientRect();
    lookAt(((event.clientX - left) / width) * 100, ((event.clientY - top) / height) * 100);
  });
  // By keyboard as well, once there is more than the place shows.
  document.addEventListener('keydown', (event) => {
    const [dx, dy] = ARROWS[event.key] ?? [0, 0];
    const isElsewhere = event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey;
    if (isElsewhere || Number(zoom.value) === 1 || (dx === 0 && dy === 0)) return;
    event.preventDefault();
    lookAt(at.x + dx * PAN_PERCENT, at.y + dy * PAN_PERCENT);
  });
}
