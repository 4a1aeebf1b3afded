// One of several, of which some cannot be chosen now, with the reason: what Gradio's Radio has no way to show.
// The value: {legend, chosen, options: [{value, label, detail, reason}]}; a `reason` makes an option grey.

import { element } from "./page.js";

let count = 0;

export default function mount({ element: place, props, watch, trigger }) {
  const group = `choices-${++count}`;

  function draw() {
    const { legend, chosen, options } = props.value;
    const focused = place.contains(document.activeElement) ? document.activeElement.value : null;
    const shown = options.map(({ value, label, detail, reason }) =>
      element("label", { class: reason ? "choice grey" : "choice", title: reason || "" },
        element("input", {
          type: "radio",
          name: group,
          value,
          checked: value === chosen,
          disabled: Boolean(reason),
          onchange: () => choose(value),
        }),
        element("span", { class: "label" }, label),
        element("span", { class: "detail" }, reason || detail)));
    place.replaceChildren(element("fieldset", {}, element("legend", {}, legend), ...shown));
    if (focused !== null) place.querySelector(`input[value="${CSS.escape(focused)}"]`)?.focus();
  }

  function choose(value) {
    props.value = { ...props.value, chosen: value };
    trigger("input");
  }

  watch("value", draw);
  draw();
}
