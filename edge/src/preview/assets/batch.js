// @ts-check
// The page of a batch: when the batch has changed, the parts that say how far it is are taken over from the page as it is
// now.
import { listenWhileSeen, takeOver } from './live.js';

/** Changes come with each picture; a reader sees two a second. */
const PAUSE_MS = 500;

export function watchBatch() {
  const batch = document.querySelector('[data-batch]');
  if (!(batch instanceof HTMLElement)) return;
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
  listenWhileSeen(() => {
    const events = new EventSource(`/admin/v1/batches/${batch.dataset.batch}/events?after=${seen}`);
    events.addEventListener('progress', changed);
    events.addEventListener('still', changed);
    return events;
  });
}
