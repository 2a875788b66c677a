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

/** @param {number} bytes */
export const kilobytes = (bytes) => `${number.format(bytes / 1000)} kB`;

/** Copies the text of a button that is pressed, and says so. */
export function watchCopies() {
  document.addEventListener('click', async (event) => {
    const button = event.target instanceof Element ? event.target.closest('button[data-copy]') : null;
    if (!(button instanceof HTMLElement)) return;
    await navigator.clipboard.writeText(button.dataset.copy ?? '');
    const before = button.textContent;
    button.textContent = say('Copied', 'Kopiert');
    setTimeout(() => { button.textContent = before; }, 1200);
  });
}
