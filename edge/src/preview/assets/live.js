// @ts-check
// What others decide appears at once: the page asks for itself again and takes over the parts that say how far pictures are.
import { watchShots } from './shots.js';

/** Parts that change, each with what stands in it now.
 * @param {ParentNode} page */
const parts = (page) => [...page.querySelectorAll('[data-live]')].filter((part) => part instanceof HTMLElement);

/** Whether the reader is in the middle of something there.
 * @param {Element} part */
const isUsed = (part) => part.contains(document.activeElement) && document.activeElement !== document.body;

async function takeOver() {
  const response = await fetch(location.href, { headers: { accept: 'text/html' }, cache: 'no-store' });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
  const others = parts(fresh);
  for (const part of parts(document)) {
    const other = others.find((it) => it.dataset.live === part.dataset.live);
    if (!other || other.innerHTML === part.dataset.known) continue;
    if (isUsed(part)) {
      // A form that is being filled in is not taken away; what it is about has changed all the same.
      part.dataset.stale = 'true';
      continue;
    }
    part.dataset.known = other.innerHTML;
    part.replaceChildren(...other.childNodes);
    watchShots(part);
  }
}

export function watchDecisions() {
  if (parts(document).length === 0) return;
  for (const part of parts(document)) part.dataset.known = part.innerHTML;
  const events = new EventSource('/preview/events');
  let pending = false;
  events.addEventListener('change', () => {
    if (pending) return;
    pending = true;
    // Decisions come in bunches.
    setTimeout(() => { pending = false; takeOver().catch(() => {}); }, 150);
  });
  addEventListener('pagehide', () => events.close());
  // Candidates that are drawn change nothing that is shared until they are there.
  if (document.querySelector('[data-drawing]')) {
    const timer = setInterval(() => {
      if (!document.querySelector('[data-drawing]')) clearInterval(timer);
      else takeOver().catch(() => {});
    }, 3000);
  }
}
