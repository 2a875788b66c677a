// @ts-check
// Says how many cards are picked, beside what can be done with them. The form below them works without it.

const picks = () => document.querySelectorAll('[data-pick]:checked').length;

function show() {
  const count = document.querySelector('[data-picked]');
  if (!(count instanceof HTMLElement)) return;
  const picked = picks();
  count.textContent = picked > 0 ? `(${picked})` : '';
  const details = count.closest('details');
  if (details && picked > 0) details.open = true;
}

export function watchPicks() {
  document.addEventListener('change', (event) => {
    if (event.target instanceof HTMLInputElement && 'pick' in event.target.dataset) show();
  });
  // A browser that leads back keeps what was picked.
  addEventListener('pageshow', show);
}
