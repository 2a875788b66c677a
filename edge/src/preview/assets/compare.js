// @ts-check
// Two pictures in one place: a slider between them, one after the other, or their difference; one zoom for both.

const BLINK_MS = 700;

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
  // What is looked at is where the pointer is, in both alike.
  sides.addEventListener('pointermove', (event) => {
    const view = event.target instanceof Element ? event.target.closest('.view') : null;
    if (!view) return;
    const { left, top, width, height } = view.getBoundingClientRect();
    sides.style.setProperty('--x', `${((event.clientX - left) / width) * 100}%`);
    sides.style.setProperty('--y', `${((event.clientY - top) / height) * 100}%`);
  });
}
