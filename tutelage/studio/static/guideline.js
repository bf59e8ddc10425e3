// The guideline beside the item: the page's own, or one that an item has brought because it was given under another.

const desk = document.getElementById("desk");
const ours = document.getElementById("guideline");

/** The id of the guideline that the page came with. */
export const own = desk.dataset.guideline;

/** Put the guideline beside an item that it was given under. */
export function guide(form) {
  const { guideline: id } = form.dataset;
  if (id === desk.dataset.guideline) return;
  const brought = form.querySelector("template[data-brought]")?.content.firstElementChild;
  const guideline = id === own ? ours : brought?.cloneNode(true);
  const shown = document.getElementById("guideline");
  if (guideline) guideline.open = shown?.open ?? true;
  shown?.remove();
  if (guideline) desk.append(guideline);
  desk.classList.toggle("guided", Boolean(guideline));
  desk.dataset.guideline = id;
}
