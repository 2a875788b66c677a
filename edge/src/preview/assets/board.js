// @ts-check
// The page of a slot: choices are sent when they are made, and views can be kept by a name.
import { say } from './text.js';

/** Where the field is kept that a choice was made in. */
const FOCUS = 'bildkante-focus';

/** Views of one slot, by their names, in this browser.
 * @returns {{ key: string, views: Record<string, string> }} */
function stored() {
  const key = `bildkante-views:${location.pathname}`;
  try {
    const views = JSON.parse(localStorage.getItem(key) ?? '{}');
    return { key, views: typeof views === 'object' && views ? views : {} };
  } catch {
    return { key, views: {} };
  }
}

/** @param {HTMLElement} box */
function showViews(box) {
  const { key, views } = stored();
  const list = box.querySelector('ul');
  const button = /** @type {HTMLElement | null} */ (box.querySelector('[data-save-view]'));
  if (!list || !button) return;
  list.replaceChildren();
  for (const [name, query] of Object.entries(views)) {
    const item = document.createElement('li');
    const link = document.createElement('a');
    link.href = `?${query}`;
    link.textContent = name;
    const remove = document.createElement('button');
    remove.type = 'button';
    remove.textContent = '×';
    remove.setAttribute('aria-label', `${button.dataset.remove} ${name}`);
    remove.addEventListener('click', () => {
      delete views[name];
      localStorage.setItem(key, JSON.stringify(views));
      showViews(box);
    });
    item.append(link, remove);
    list.append(item);
  }
}

/** The address without what is empty.
 * @param {HTMLFormElement} form */
function send(form) {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (typeof value === 'string' && value !== '') query.append(name, value);
  }
  keepFocus();
  location.search = query.toString();
}

/** A choice opens the page anew; the reader goes on where it was made. */
function keepFocus() {
  const field = document.activeElement;
  if (!(field instanceof HTMLInputElement || field instanceof HTMLSelectElement)) return;
  const value = field instanceof HTMLInputElement && ['checkbox', 'radio'].includes(field.type) ? field.value : null;
  try {
    sessionStorage.setItem(FOCUS, JSON.stringify({ name: field.name, value, top: scrollY }));
  } catch {
    // Where a browser keeps nothing, the page begins at its top.
  }
}

/** @param {HTMLFormElement} form */
function takeFocus(form) {
  try {
    const kept = sessionStorage.getItem(FOCUS);
    sessionStorage.removeItem(FOCUS);
    if (!kept) return;
    const { name, value, top } = JSON.parse(kept);
    const field = [...form.elements].find(
      (it) => it instanceof HTMLElement && it.getAttribute('name') === name
        && (value === null || it.getAttribute('value') === value),
    );
    if (!(field instanceof HTMLElement)) return;
    const box = field.closest('details');
    if (box) box.open = true;
    field.focus({ preventScroll: true });
    scrollTo(0, Number(top));
  } catch {
    // What was kept is not ours.
  }
}

export function watchChoices() {
  const form = document.querySelector('form.choices');
  if (!(form instanceof HTMLFormElement)) return;
  const button = form.querySelector('[data-sent-by-script]');
  if (button instanceof HTMLElement) button.hidden = true;
  document.addEventListener('change', (event) => {
    const field = event.target;
    if ((field instanceof HTMLInputElement || field instanceof HTMLSelectElement) && field.form === form) send(form);
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    send(form);
  });
  // On a narrow screen the pictures come first.
  const all = form.querySelector('[data-narrow-closed]');
  if (all instanceof HTMLDetailsElement && matchMedia('(max-width: 52rem)').matches) all.open = false;
  takeFocus(form);
  const box = form.querySelector('[data-saved-views]');
  if (!(box instanceof HTMLElement)) return;
  box.hidden = false;
  showViews(box);
  box.querySelector('[data-save-view]')?.addEventListener('click', () => {
    const name = prompt(say('A name for this view', 'Ein Name für diese Ansicht'))?.trim().slice(0, 60);
    if (!name) return;
    const { key, views } = stored();
    // A view is what is looked at; how a reader likes pages is not part of it.
    const query = new URLSearchParams(location.search);
    for (const taste of ['_lang', '_ground', '_page']) query.delete(taste);
    localStorage.setItem(key, JSON.stringify({ ...views, [name]: query.toString() }));
    showViews(box);
  });
}
