// One of several, of which some cannot be chosen now, with the reason: what Gradio's Radio has no way to show. The value
// is what is chosen; a `reason` makes an option grey.

import { follow, offer } from "./offers.js";
import { element } from "./page.js";

export default function mount({ element: place, props, watch, trigger }) {
  const name = place.closest("#preset, #size").id;

  function draw() {
    const { legend, options } = offer(name);
    const focused = place.contains(document.activeElement) ? document.activeElement.value : null;
    const shown = options.map(({ value, label, detail, reason }) =>
      element("label", { class: reason ? "choice grey" : "choice", title: reason || "" },
        element("input", {
          type: "radio",
          name,
          value,
          checked: value === props.value,
          disabled: Boolean(reason),
          onchange: () => choose(value),
        }),
        element("span", { class: "label" }, label),
        element("span", { class: "detail" }, reason || detail)));
    place.replaceChildren(element("fieldset", {}, element("legend", {}, legend), ...shown));
    if (focused !== null) place.querySelector(`input[value="${CSS.escape(focused)}"]`)?.focus();
  }

  function choose(value) {
    props.value = value;
    trigger("input");
  }

  follow(draw);
  watch("value", draw);
  draw();
}
