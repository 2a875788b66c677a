// @ts-check
// Single keys. A reader turns them off in the help (WCAG 2.2, 2.1.4), and none acts while a text is typed.

const OFF = 'bildkante-keys-off';

/** Decisions are about the chosen candidate and no other. */
const DECISIONS = ['a', 'r', 'c'];

/** Where a browser keeps nothing, keys are on. */
function areOn() {
  try {
    return localStorage.getItem(OFF) === null;
  } catch {
    return true;
  }
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  if (!(target instanceof HTMLElement)) return false;
  const isField = target instanceof HTMLInputElement && !['checkbox', 'radio', 'range', 'button'].includes(target.type);
  return isField || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement || target.isContentEditable;
}

/** The candidate that keys act on: the one that was chosen, else the only one that awaits a decision.
 * @returns {Element} */
function chosen() {
  const one = document.querySelector('[data-candidate].chosen');
  const waiting = document.querySelectorAll('[data-candidate][data-state=needs_review]');
  const only = waiting.length === 1 ? waiting[0] : undefined;
  return one ?? only ?? document.createElement('div');
}

/** @param {string} number */
function choose(number) {
  const candidate = document.querySelector(`[data-candidate="${number}"]`);
  if (!(candidate instanceof HTMLElement)) return false;
  document.querySelector('[data-candidate].chosen')?.classList.remove('chosen');
  candidate.classList.add('chosen');
  candidate.focus();
  candidate.scrollIntoView({ block: 'nearest' });
  return true;
}

/** Opens a form and goes to its field, presses a button, or follows a link.
 * @param {Element} control */
function use(control) {
  if (!(control instanceof HTMLElement)) return;
  const details = control.closest('details');
  if (control.tagName === 'SUMMARY' && details) {
    details.open = true;
    const field = details.querySelector('input:not([type=hidden])');
    if (field instanceof HTMLElement) field.focus();
  } else {
    control.click();
  }
}

/** @param {string} key */
function act(key) {
  const name = `[data-key="${CSS.escape(key)}"]`;
  const own = chosen().querySelector(name);
  const control = DECISIONS.includes(key) ? own : own ?? document.querySelector(name);
  if (control) use(control);
  return control !== null;
}

/** Moves among the pictures of a page, as they stand on the screen.
 * @param {string} key */
function move(key) {
  const all = [...document.querySelectorAll('[data-move]')].filter((it) => it instanceof HTMLElement);
  const current = all.find((it) => it === document.activeElement) ?? all.find((it) => it.classList.contains('moved'));
  if (!current) {
    const first = all[0];
    if (!first) return false;
    first.classList.add('moved');
    first.focus();
    return true;
  }
  const from = current.getBoundingClientRect();
  const dx = Number(key === 'ArrowRight') - Number(key === 'ArrowLeft');
  const dy = Number(key === 'ArrowDown') - Number(key === 'ArrowUp');
  const away = all.map((it) => {
    const to = it.getBoundingClientRect();
    const along = (to.left - from.left) * dx + (to.top - from.top) * dy;
    const across = Math.abs((to.left - from.left) * dy) + Math.abs((to.top - from.top) * dx);
    return { it, along, far: along + across * 3 };
  });
  const next = away.filter(({ along }) => along > 4).sort((a, b) => a.far - b.far)[0];
  if (!next) return false;
  current.classList.remove('moved');
  next.it.classList.add('moved');
  next.it.focus();
  next.it.scrollIntoView({ block: 'nearest' });
  return true;
}

export function watchKeys() {
  const help = document.getElementById('keys');
  const toggle = help?.querySelector('[data-keys-on]');
  if (toggle instanceof HTMLInputElement) {
    toggle.checked = areOn();
    toggle.addEventListener('change', () => {
      try {
        if (toggle.checked) localStorage.removeItem(OFF);
        else localStorage.setItem(OFF, '1');
      } catch {
        toggle.checked = true;
      }
    });
  }
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    // A key that is held decides once.
    if (event.repeat && !event.key.startsWith('Arrow')) return;
    const isOpen = help instanceof HTMLDialogElement && help.open;
    let isDone = false;
    if (event.key === '?' && help instanceof HTMLDialogElement) {
      if (isOpen) help.close();
      else help.showModal();
      isDone = true;
    } else if (isOpen || !areOn()) {
      return;
    } else if (event.key.startsWith('Arrow')) {
      const field = event.target;
      const isChoice = field instanceof HTMLInputElement || (field instanceof Element && field.closest('.scroll') === field);
      isDone = !isChoice && move(event.key);
    } else if (event.key === '/') {
      const search = document.querySelector('[data-search]');
      if (search instanceof HTMLElement) search.focus();
      isDone = search !== null;
    } else if (/^[1-9]$/.test(event.key)) {
      isDone = choose(event.key);
    } else if (/^[a-z]$/.test(event.key)) {
      isDone = act(event.key);
    }
    if (isDone) event.preventDefault();
  });
}
