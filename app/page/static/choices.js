// One of several, of which some cannot be chosen now, with the reason: what Gradio's Radio has no way to show.
// The value: {legend, chosen, options: [{value, label, detail, reason}]}; a `reason` makes an option grey. Where the
// server sends `chosen: null`, what the page has stays chosen.

import { element } from "./page.js";

let count = 0;

export default function mount({ element: place, props, watch, trigger }) {
  const group = `choices-${++count}`;
  let chosen = "";

  function draw() {
    const { legend, options } = props.value;
    chosen = props.value.chosen ?? chosen;
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
    chosen = value;
    keep();
    trigger("input");
  }

  function keep() {
    props.value = { ...props.value, chosen };
  }

  watch("value", () => {
    draw();
    setTimeout(() => props.value.chosen === null && keep()); // when Gradio has done with what it tells us of
  });
  draw();
}
