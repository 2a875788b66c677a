// @ts-check
// The page of a batch: when the batch has changed, the parts that say how far it is are taken over from the page as it is now.
import { takeOver } from './live.js';

/** Changes come with each picture; a reader sees two a second. */
const PAUSE_MS = 500;

export function watchBatch() {
  const batch = document.querySelector('[data-batch]');
  if (!(batch instanceof HTMLElement)) return;
  /** @type {EventSource | undefined} */
  let events;
  let seen = batch.dataset.seen ?? '0';
  let isPending = false;
  /** @param {MessageEvent} event */
  const changed = (event) => {
    seen = event.lastEventId;
    if (isPending) return;
    isPending = true;
    setTimeout(() => {
      isPending = false;
      takeOver().catch(() => {});
    }, PAUSE_MS);
  };
  const listen = () => {
    events?.close();
    events = new EventSource(`/admin/v1/batches/${batch.dataset.batch}/events?after=${seen}`);
    events.addEventListener('progress', changed);
    events.addEventListener('still', changed);
  };
  // A page that is not seen holds no connection: over HTTP/1.1 a browser has six to a host.
  const follow = () => {
    if (document.hidden) events?.close();
    else listen();
  };
  document.addEventListener('visibilitychange', follow);
  addEventListener('pagehide', () => events?.close());
  addEventListener('pageshow', (event) => { if (event.persisted) follow(); });
  follow();
}
