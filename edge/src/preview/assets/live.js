// @ts-check
// What others decide appears at once: the page asks for itself again and takes over the parts that say how far pictures are.
import { watchShots } from './shots.js';
import { say } from './text.js';

/** Parts that change, each with what stands in it now.
 * @param {ParentNode} page */
const parts = (page) => [...page.querySelectorAll('[data-live]')].filter((part) => part instanceof HTMLElement);

/** Whether the reader is in the middle of something there: a form, or a candidate that was chosen.
 * @param {Element} part */
const isUsed = (part) =>
  part.querySelector('details[open] form, .chosen, [data-pick]:checked') !== null
  || (part.contains(document.activeElement) && document.activeElement instanceof HTMLInputElement);

/** Says that a part has changed, where it is not taken from under the reader's hands.
 * @param {HTMLElement} part */
function tell(part) {
  if (part.querySelector('.stale')) return;
  const notice = document.createElement('p');
  notice.className = 'stale';
  notice.setAttribute('role', 'status');
  const again = document.createElement('a');
  again.href = '';
  again.textContent = say('Look again', 'Neu laden');
  notice.append(say('Someone has changed this meanwhile. ', 'Das hat inzwischen jemand geändert. '), again);
  part.prepend(notice);
}

export async function takeOver() {
  const response = await fetch(location.href, { headers: { accept: 'text/html' }, cache: 'no-store' });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
  const others = parts(fresh);
  for (const part of parts(document)) {
    const other = others.find((it) => it.dataset.live === part.dataset.live);
    if (!other || other.innerHTML === part.dataset.known) continue;
    if (isUsed(part)) {
      tell(part);
      continue;
    }
    part.dataset.known = other.innerHTML;
    part.replaceChildren(...other.childNodes);
    watchShots(part);
  }
}

/** Asks for the page until no candidate is being drawn: until then nothing that is shared changes.
 * @type {ReturnType<typeof setInterval> | undefined} */
let drawing;

function watchDrawing() {
  clearInterval(drawing);
  drawing = setInterval(() => {
    if (document.querySelector('[data-drawing]')) takeOver().catch(() => {});
    else clearInterval(drawing);
  }, 3000);
}

/** Listens while the page is seen. One that is not holds no connection: over HTTP/1.1 a browser has six to a host.
 * @param {() => EventSource} listen */
export function listenWhileSeen(listen) {
  /** @type {EventSource | undefined} */
  let events;
  const follow = () => {
    events?.close();
    if (!document.hidden) events = listen();
  };
  document.addEventListener('visibilitychange', follow);
  addEventListener('pagehide', () => events?.close());
  addEventListener('pageshow', (event) => { if (event.persisted) follow(); });
  follow();
}

export function watchDecisions() {
  if (parts(document).length === 0) return;
  for (const part of parts(document)) part.dataset.known = part.innerHTML;
  let seen = document.documentElement.dataset.seq ?? '0';
  let isPending = false;
  listenWhileSeen(() => {
    const events = new EventSource(`/preview/events?after=${seen}`);
    events.addEventListener('change', (event) => {
      seen = event.lastEventId;
      if (isPending) return;
      isPending = true;
      // Decisions come in bunches.
      setTimeout(() => {
        isPending = false;
        takeOver().then(watchDrawing).catch(() => {});
      }, 150);
    });
    return events;
  });
  watchDrawing();
}
