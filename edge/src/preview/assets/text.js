// @ts-check
// Words and numbers for readers, and texts to copy.

/** The page's language. */
export const language = document.documentElement.lang === 'de' ? 'de' : 'en';

/**
 * @param {string} english
 * @param {string} german
 */
export const say = (english, german) => (language === 'de' ? german : english);

const number = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });

const tenths = new Intl.NumberFormat(language, { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** @param {number} value */
export const decimal = (value) => tenths.format(value);

/** @param {number} bytes */
export const kilobytes = (bytes) => `${number.format(bytes / 1000)} kB`;

/** Copies a text. `navigator.clipboard` is there on secure origins alone, and this machine is one.
 * @param {string} text */
async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = document.createElement('textarea');
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}

/** Copies the text of a button that is pressed, and says so. */
export function watchCopies() {
  document.addEventListener('click', async (event) => {
    const button = event.target instanceof Element ? event.target.closest('button[data-copy]') : null;
    if (!(button instanceof HTMLElement) || button.dataset.before !== undefined) return;
    const text = button.dataset.copy ?? '';
    // The address of a link may be a path of this host.
    await copy('copyLink' in button.dataset ? new URL(text, location.href).href : text);
    button.dataset.before = button.textContent ?? '';
    button.textContent = say('Copied', 'Kopiert');
    button.setAttribute('aria-live', 'polite');
    setTimeout(() => {
      button.textContent = button.dataset.before ?? '';
      delete button.dataset.before;
    }, 1200);
  });
}
