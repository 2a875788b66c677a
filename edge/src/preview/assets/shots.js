// @ts-check
// Says what each picture of a page is, and asks again while a stand-in is shown.
import { kilobytes, say } from './text.js';

/** Pauses between looks while a picture is drawn. */
const RETRY_MS = [800, 1200, 2000, 3000, 5000, 8000, 10000, 10000, 10000, 10000, 15000, 15000, 20000, 20000, 30000];

/** Pictures that nothing draws until people decide: looking again is of no use.
 * @type {Record<string, string>} */
const WITHHELD = {
  'awaiting-decision': say('awaits a decision', 'wartet auf Entscheidung'),
  killed: say('killed', 'gesperrt'),
  'parts-unknown': say('withheld by a kill', 'durch eine Sperre zurückgehalten'),
  'rights-ended': say('its rights have ended', 'Rechte abgelaufen'),
  'state-stale': say('the edge has long heard nothing of its fleet', 'lange nichts von den anderen Servern gehört'),
};

/**
 * @typedef {object} Facts
 * @property {boolean} ok
 * @property {string | undefined} withheld
 * @property {boolean} standIn
 * @property {string} detail
 * @property {number} bytes
 * @property {string} type
 * @property {string | undefined} rung
 * @property {number | undefined} score
 * @property {number | undefined} encodeMs
 */

/** What a response says of its file.
 * @param {string} timing the value of `Server-Timing`
 * @param {string} name */
const told = (timing, name) => new RegExp(`(?:^|, )${name};desc=([^,]+)`).exec(timing)?.[1];

/** @param {string | undefined} text */
const asNumber = (text) => (text === undefined ? undefined : Number(text));

/** What a response says of itself.
 * @param {Response} response
 * @returns {Facts} */
function describe(response) {
  const status = response.headers.get('cache-status') ?? '';
  const timing = response.headers.get('server-timing') ?? '';
  const reason = Object.keys(WITHHELD).find((word) => status.includes(word));
  return {
    ok: response.ok,
    withheld: reason && WITHHELD[reason],
    standIn: /detail="?(fallback|placeholder)/.test(status),
    detail: /detail="?([^";]+)/.exec(status)?.[1] ?? `${say('error', 'Fehler')} ${response.status}`,
    bytes: Number(response.headers.get('content-length')) || 0,
    type: (response.headers.get('content-type') ?? '').replace('image/', '').toUpperCase(),
    rung: told(timing, 'rung'),
    score: asNumber(told(timing, 'score')),
    encodeMs: asNumber(told(timing, 'encode')),
  };
}

/** @param {string} url */
export const head = (url) => fetch(url, { method: 'HEAD', cache: 'no-store' }).then(describe);

/**
 * @param {HTMLElement | null} badge
 * @param {string} state
 * @param {string} text
 */
function label(badge, state, text) {
  if (!badge) return;
  badge.dataset.state = state;
  badge.textContent = text;
  badge.hidden = false;
}

/** A fresh element asks the edge again: stand-ins are `no-cache`.
 * @param {HTMLImageElement} image */
function reload(image) {
  const picture = image.closest('picture');
  const copy = /** @type {HTMLElement | undefined} */ (picture?.cloneNode(true));
  const fresh = copy?.querySelector('img');
  if (!picture || !copy || !fresh) return;
  fresh.loading = 'eager';
  picture.replaceWith(copy);
}

/** Looks until the picture itself is there, then shows it in place of the stand-in.
 * @param {HTMLElement} shot
 * @param {number} attempt */
async function settle(shot, attempt) {
  const image = shot.querySelector('img');
  const badge = /** @type {HTMLElement | null} */ (shot.querySelector('.badge'));
  if (!image?.isConnected) return;
  let facts;
  try {
    facts = await head(image.currentSrc || image.src);
  } catch {
    label(badge, 'failed', say('edge out of reach', 'Server nicht erreichbar'));
    return;
  }
  if (!facts.ok) {
    label(badge, 'failed', facts.detail);
  } else if (facts.withheld) {
    label(badge, 'stand-in', facts.withheld);
  } else if (facts.standIn) {
    // How far it is says `progress.js`.
    if (badge?.dataset.state !== 'drawing') label(badge, 'drawing', say('being drawn …', 'wird erzeugt …'));
    if (attempt < RETRY_MS.length) setTimeout(() => settle(shot, attempt + 1), RETRY_MS[attempt]);
    return;
  } else {
    if (attempt > 0) reload(image);
    label(badge, 'final', `${facts.type} · ${kilobytes(facts.bytes)}`);
    // The page was made before the picture was.
    shot.querySelector('.state[data-state=missing]')?.remove();
  }
  image.classList.remove('waiting');
}

/** @param {HTMLElement} shot */
function watch(shot) {
  const image = shot.querySelector('picture img');
  if (!(image instanceof HTMLImageElement)) return;
  if (image.complete && image.naturalWidth > 0) {
    settle(shot, 0);
    return;
  }
  image.classList.add('waiting');
  image.addEventListener('load', () => settle(shot, 0), { once: true });
  image.addEventListener('error', () => label(shot.querySelector('.badge'), 'failed', say('no image', 'kein Bild')), { once: true });
}

/** An edge that is busy answers 503 for a picture before reviewers: it is asked again a few times.
 * @param {HTMLImageElement} image
 * @param {number} attempt */
function persist(image, attempt) {
  const pause = RETRY_MS[attempt + 2];
  if (pause === undefined || attempt > 6) return;
  const again = () => setTimeout(() => {
    if (!image.isConnected) return;
    persist(image, attempt + 1);
    const src = image.src;
    image.removeAttribute('src');
    image.src = src;
  }, pause);
  if (attempt === 0 && image.complete && image.naturalWidth === 0) again();
  else image.addEventListener('error', again, { once: true });
}

/** @param {ParentNode} part */
export function watchShots(part) {
  for (const image of part.querySelectorAll('img[src^="/admin/v1/decisions/"]')) {
    if (image instanceof HTMLImageElement) persist(image, 0);
  }
  for (const shot of part.querySelectorAll('[data-shot]')) {
    if (shot instanceof HTMLElement) watch(shot);
  }
}
