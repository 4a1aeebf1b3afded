// What Gradio's own elements lack for a keyboard and a screen reader.

/** In its gallery the button that takes more pictures is inside of another one that does nothing. */
function mend() {
  for (const outer of document.querySelectorAll("#pictures button.icon-button:has(button)")) {
    if (outer.getAttribute("role") === "group") continue;
    outer.setAttribute("role", "group");
    outer.tabIndex = -1;
  }
}

export function mending() {
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  mend();
}
