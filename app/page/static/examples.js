// Pictures to try it with: a click puts one into the form, with its prompt.

import { address, element, language, t } from "./page.js";

export default function mount({ element: place, props, trigger }) {
  const buttons = props.value.map(({ name, file, title }) =>
    element("button", { type: "button", "data-example": name, onclick: () => trigger("select", { name }) },
      element("img", { src: address(`page/examples/${file}`), alt: title[language], loading: "lazy" })));
  place.replaceChildren(element("div", { class: "examples", role: "group", "aria-label": t("Examples") }, ...buttons));
}
