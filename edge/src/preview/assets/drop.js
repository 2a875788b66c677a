// @ts-check
// A file that is dropped on a form goes into its field and is sent. Without this the field takes it.

/** @param {HTMLFormElement} form */
function watch(form) {
  const field = form.querySelector('input[type=file]');
  if (!(field instanceof HTMLInputElement)) return;
  /** @param {DragEvent} event */
  const holdsFiles = (event) => event.dataTransfer?.types.includes('Files') ?? false;
  form.addEventListener('dragover', (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    form.dataset.over = '';
  });
  form.addEventListener('dragleave', () => delete form.dataset.over);
  form.addEventListener('drop', (event) => {
    delete form.dataset.over;
    const files = event.dataTransfer?.files;
    if (!files?.length) return;
    event.preventDefault();
    field.files = files;
    form.requestSubmit();
  });
}

export function watchDrops() {
  for (const form of document.querySelectorAll('form[data-drop]')) {
    if (form instanceof HTMLFormElement) watch(form);
  }
}
