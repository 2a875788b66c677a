// @ts-check
// The page of a variant: the picture as wide as a screen has it, and the bytes of every width and format.
import { head } from './shots.js';
import { kilobytes } from './text.js';

/** @param {HTMLElement} stage */
function watchScreens(stage) {
  const shot = stage.querySelector('.shot');
  if (!(shot instanceof HTMLElement)) return;
  const own = [...shot.querySelectorAll('[sizes]')].map((it) => it.getAttribute('sizes') ?? '');
  stage.addEventListener('change', (event) => {
    const field = event.target;
    if (!(field instanceof HTMLInputElement) || field.name !== 'screen') return;
    shot.style.inlineSize = field.value ? `${field.value}px` : '';
    [...shot.querySelectorAll('[sizes]')].forEach((it, at) => {
      it.setAttribute('sizes', field.value ? `${field.value}px` : own[at] ?? '');
    });
  });
}

/** Asks for one file after the other, because each may have to be made. The smallest of a width is marked.
 * @param {HTMLElement} table */
async function measure(table) {
  for (const row of table.querySelectorAll('tbody tr')) {
    /** @type {{ cell: HTMLElement, bytes: number }[]} */
    const known = [];
    for (const cell of row.querySelectorAll('[data-format-url]')) {
      if (!(cell instanceof HTMLElement)) continue;
      cell.textContent = '…';
      const facts = await head(cell.dataset.formatUrl ?? '').catch(() => null);
      const isThere = facts && facts.ok && !facts.standIn && !facts.withheld;
      cell.textContent = isThere ? kilobytes(facts.bytes) : '–';
      if (isThere) known.push({ cell, bytes: facts.bytes });
    }
    const least = Math.min(...known.map(({ bytes }) => bytes));
    for (const { cell, bytes } of known) cell.classList.toggle('least', bytes === least);
  }
}

export function watchStage() {
  const stage = document.querySelector('[data-stage]');
  if (stage instanceof HTMLElement) watchScreens(stage);
  const button = document.querySelector('[data-measure]');
  const table = document.querySelector('[data-bytes]');
  if (!(button instanceof HTMLButtonElement) || !(table instanceof HTMLElement)) return;
  button.hidden = false;
  button.addEventListener('click', async () => {
    button.disabled = true;
    await measure(table);
    button.disabled = false;
  });
}
