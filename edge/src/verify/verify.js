// Drag and drop, and a view of the chosen picture. The page works without it: it is a plain form.
"use strict";
const form = document.querySelector("form[data-verify]");
if (form) {
  const input = form.querySelector("input[type=file]");
  const shown = form.querySelector("[data-chosen]");
  const button = form.querySelector("button");
  let address = null;
  const show = () => {
    const file = input.files[0];
    if (address) URL.revokeObjectURL(address);
    shown.replaceChildren();
    if (!file) return;
    address = URL.createObjectURL(file);
    const image = new Image();
    image.alt = "";
    image.src = address;
    image.addEventListener("error", () => image.remove());
    const name = document.createElement("span");
    name.textContent = file.name;
    shown.append(image, name);
  };
  input.addEventListener("change", show);
  for (const kind of ["dragenter", "dragover"]) {
    form.addEventListener(kind, (event) => {
      event.preventDefault();
      form.dataset.over = "";
    });
  }
  for (const kind of ["dragleave", "drop"]) form.addEventListener(kind, () => delete form.dataset.over);
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length === 0) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    input.files = one.files;
    show();
  });
  form.addEventListener("submit", () => {
    button.textContent = button.dataset.busy;
    form.setAttribute("aria-busy", "true");
  });
}
