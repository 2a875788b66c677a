// @ts-check
// How far pictures are that a page waits for. It asks while there are some, and no more.
import { say } from './text.js';

const PAUSE_MS = 1500;

/**
 * @typedef {object} Drawing
 * @property {'queued' | 'running' | 'done'} state
 * @property {number} step
 * @property {number} of
 * @property {number | undefined} position
 */

/** Pictures that are being drawn, by their recipes.
 * @returns {Map<string, HTMLElement[]>} */
function waiting() {
  /** @type {Map<string, HTMLElement[]>} */
  const found = new Map();
  for (const badge of document.querySelectorAll('[data-recipe] .badge[data-state=drawing]')) {
    const recipe = badge.closest('[data-recipe]')?.getAttribute('data-recipe');
    if (!(badge instanceof HTMLElement) || !recipe) continue;
    found.set(recipe, [...(found.get(recipe) ?? []), badge]);
  }
  return found;
}

/** @param {Drawing} drawing */
function words(drawing) {
  if (drawing.state === 'running' && drawing.of > 0) return `${say('step', 'Schritt')} ${drawing.step} ${say('of', 'von')} ${drawing.of}`;
  if (drawing.state === 'queued' && drawing.position) return `${say('waits, before it', 'wartet, davor')}: ${drawing.position}`;
  return say('being drawn …', 'wird erzeugt …');
}

async function look() {
  const badges = waiting();
  if (badges.size === 0 || document.hidden) return;
  const response = await fetch(`/preview/progress?of=${[...badges.keys()].slice(0, 64).join('.')}`, { cache: 'no-store' });
  if (!response.ok) return;
  /** @type {Record<string, Drawing>} */
  const told = await response.json();
  for (const [recipe, drawing] of Object.entries(told)) {
    for (const badge of badges.get(recipe) ?? []) badge.textContent = words(drawing);
  }
}

export function watchProgress() {
  if (!document.querySelector('[data-recipe]')) return;
  const again = () => setTimeout(() => look().catch(() => {}).finally(again), PAUSE_MS);
  again();
}
