// @ts-check
// The page of a link: a click on a picture says which point a comment is about. The form's fields say the same without a script.
import { say } from './text.js';

/** Where a click lies on a picture, in percent with one decimal.
 * @param {number} at
 * @param {number} start
 * @param {number} size */
const percent = (at, start, size) => Math.round(Math.min(1, Math.max(0, (at - start) / size)) * 1000) / 10;

/** @param {HTMLElement} frame
 * @param {HTMLFormElement} form */
function watchPicture(frame, form) {
  const fields = ['x', 'y'].map((name) => form.elements.namedItem(name));
  const [x, y] = fields;
  const svg = frame.querySelector('svg');
  if (!(x instanceof HTMLInputElement) || !(y instanceof HTMLInputElement) || !svg) return;
  const help = form.querySelector('[data-pin-help]');
  if (help instanceof HTMLElement) help.hidden = false;
  const mark = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
  mark.setAttribute('class', 'new');
  mark.setAttribute('r', '18');
  const show = () => {
    const [, , width, height] = (svg.getAttribute('viewBox') ?? '').split(' ').map(Number);
    const isThere = x.value !== '' && y.value !== '' && width && height;
    if (!isThere) {
      mark.remove();
      return;
    }
    mark.setAttribute('cx', String((Number(x.value) / 100) * width));
    mark.setAttribute('cy', String((Number(y.value) / 100) * height));
    svg.append(mark);
  };
  frame.title = say('Click to comment on a point', 'Klicken, um einen Punkt zu kommentieren');
  frame.addEventListener('click', (event) => {
    const box = svg.getBoundingClientRect();
    x.value = String(percent(event.clientX, box.left, box.width));
    y.value = String(percent(event.clientY, box.top, box.height));
    show();
    const details = form.closest('details');
    if (details) details.open = true;
    const text = form.elements.namedItem('text');
    if (text instanceof HTMLElement) text.focus();
  });
  form.addEventListener('input', show);
}

for (const frame of document.querySelectorAll('[data-pinnable]')) {
  if (!(frame instanceof HTMLElement)) continue;
  const form = document.querySelector(`[data-comment-for="${CSS.escape(frame.dataset.pinnable ?? '')}"]`);
  if (form instanceof HTMLFormElement) watchPicture(frame, form);
}
