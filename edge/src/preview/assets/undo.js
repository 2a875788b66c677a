// @ts-check
// The bar by which a decision is taken back goes when its time is over: it would be refused from then on.

export function watchUndo() {
  const bar = document.querySelector('[data-undo-ms]');
  if (!(bar instanceof HTMLElement)) return;
  setTimeout(() => bar.remove(), Number(bar.dataset.undoMs));
  // The address is that of the page again: loading it anew shows no bar for what is long decided.
  const kept = location.search.slice(1).split('&').filter((pair) => !pair.startsWith('_undo='));
  history.replaceState(history.state, '', `?${kept.join('&')}${location.hash}`);
}
