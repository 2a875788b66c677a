// @ts-check
// The page of a variant: the picture in the cut and as wide as a screen has it, and the bytes of every width and format.
import { head } from './shots.js';
import { decimal, say } from './text.js';

/** The cut that a page on a screen of that size shows: the first whose condition holds in an empty frame as large as it.
 * @param {HTMLElement} stage
 * @param {{ width: number, height: number }} screen
 * @returns {HTMLTemplateElement | undefined} */
function cutOn(stage, { width, height }) {
  const cuts = [...stage.querySelectorAll('template[data-cut]')].filter((it) => it instanceof HTMLTemplateElement);
  if (cuts.length === 0) return undefined;
  const frame = document.createElement('iframe');
  frame.tabIndex = -1;
  frame.setAttribute('aria-hidden', 'true');
  const size = { width: `${width}px`, height: `${height}px` };
  Object.assign(frame.style, { position: 'fixed', visibility: 'hidden', border: '0', ...size });
  stage.append(frame);
  const cut = cuts.find((it) => frame.contentWindow?.matchMedia(it.dataset.media ?? 'not all').matches);
  frame.remove();
  return cut;
}

/** @param {HTMLElement} stage */
function watchScreens(stage) {
  const shot = stage.querySelector('.shot');
  const told = stage.querySelector('.cut-shown');
  if (!(shot instanceof HTMLElement)) return;
  const sizes = new Map([...shot.querySelectorAll('[sizes]')].map((it) => [it, it.getAttribute('sizes') ?? '']));
  stage.addEventListener('change', (event) => {
    const field = event.target;
    if (!(field instanceof HTMLInputElement) || field.name !== 'screen') return;
    const screen = { width: Number(field.value), height: Number(field.dataset.height) };
    const cut = field.value ? cutOn(stage, screen) : undefined;
    const own = shot.querySelector(':scope > :not([data-cut-shown], .badge)');
    shot.querySelector('[data-cut-shown]')?.remove();
    own?.toggleAttribute('hidden', cut !== undefined);
    if (cut) {
      const picture = /** @type {HTMLElement} */ (cut.content.firstElementChild?.cloneNode(true));
      picture.dataset.cutShown = cut.dataset.cut;
      shot.append(picture);
    }
    shot.style.inlineSize = field.value ? `${field.value}px` : '';
    for (const it of shot.querySelectorAll('[sizes]')) {
      it.setAttribute('sizes', field.value ? `${field.value}px` : sizes.get(it) ?? it.getAttribute('sizes') ?? '');
    }
    if (!(told instanceof HTMLElement)) return;
    told.hidden = !field.value;
    told.textContent = cut
      ? `${say('Cut', 'Ausschnitt')} ${cut.dataset.cut}: ${cut.dataset.media}`
      : say(
          'The slot’s own cut: no other condition holds on this screen',
          'Der eigene Ausschnitt des Platzes: Auf diesem Bildschirm gilt keine andere Bedingung',
        );
  });
}

/** Between a number and its unit, which stay on one line. */
const NO_BREAK = '\u00a0';

/** Rung, score and time, as the page has them of the files that it knows.
 * @param {import('./shots.js').Facts} facts */
function words({ rung, score, encodeMs }) {
  /** @type {Record<string, string>} */
  const rungs = { hurried: say('hurried', 'in Eile'), quick: say('quick', 'vorläufig'), final: say('final', 'endgültig') };
  const told = [rungs[rung ?? 'final'] ?? ''];
  if (score !== undefined) told.push(`${decimal(score)}${NO_BREAK}${say('points', 'Punkte')}`);
  if (encodeMs !== undefined) told.push(encodeMs < 1000 ? `${encodeMs}${NO_BREAK}ms` : `${decimal(Math.round(encodeMs / 100) / 10)}${NO_BREAK}s`);
  return told.join(', ');
}

/** The quick file stays beside the final one, where the page knew it.
 * @param {HTMLElement} cell
 * @param {import('./shots.js').Facts} facts */
function tell(cell, facts) {
  const size = document.createElement('b');
  size.textContent = `${decimal(facts.bytes / 1000)}${NO_BREAK}kB`;
  const more = document.createElement('span');
  more.className = 'key';
  more.dataset.rung = facts.rung;
  more.textContent = words(facts);
  const before = facts.rung === 'final' ? cell.querySelector('[data-before]') : null;
  cell.replaceChildren(size, ...(facts.rung ? [more] : []), ...(before ? [before] : []));
}

/** Asks for one file after the other, because each may have to be made. The smallest of a width is marked.
 * @param {HTMLElement} table */
async function measure(table) {
  for (const row of table.querySelectorAll('tbody tr')) {
    /** @type {{ cell: HTMLElement, bytes: number }[]} */
    const known = [];
    for (const cell of row.querySelectorAll('[data-format-url]')) {
      if (!(cell instanceof HTMLElement)) continue;
      cell.setAttribute('aria-busy', 'true');
      const facts = await head(cell.dataset.formatUrl ?? '').catch(() => null);
      const isThere = facts && facts.ok && !facts.standIn && !facts.withheld;
      cell.removeAttribute('aria-busy');
      if (isThere) tell(cell, facts);
      else cell.textContent = '–';
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
