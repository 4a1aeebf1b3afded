// What Gradio's field for pictures lacks: pasting from anywhere, and order for a keyboard and a screen reader.

/** Look after the field, which comes and goes. */
export function attend() {
  document.addEventListener("paste", pasted);
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  mend();
}

/** Its own button can only ask for what is in the clipboard, which browsers grant to https alone. */
function pasted(event) {
  const isText = event.target.matches?.("textarea, input") && event.clipboardData.types.includes("text/plain");
  if (isText) return; // from office programs, which add a picture of it
  const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/") || type === "video/mp4");
  const input = document.querySelector("#pictures input[type=file]");
  if (!files.length || input === null) return;
  event.preventDefault();
  const given = new DataTransfer();
  files.forEach((file) => given.items.add(file));
  input.files = given.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

/** In its gallery the button that takes more pictures is inside of another one that does nothing. */
function mend() {
  for (const outer of document.querySelectorAll("#pictures button.icon-button:has(button)")) {
    if (outer.getAttribute("role") === "group") continue;
    outer.setAttribute("role", "group");
    outer.tabIndex = -1;
  }
}
