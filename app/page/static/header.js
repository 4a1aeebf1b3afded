// The top of the page: its name, the model, the language, who is logged in.

import { listen } from "./live.js";
import { address, element, language, models, t, user } from "./page.js";
import { attend } from "./pictures.js";

const LANGUAGES = { zh: "中文", en: "English" };
const YEAR_S = 365 * 24 * 3600;

export default function mount({ element: place }) {
  attend();
  const switches = Object.entries(LANGUAGES).map(([name, title]) =>
    element("button", {
      type: "button",
      lang: name,
      "data-language": name,
      "aria-pressed": String(name === language),
      onclick: () => speak(name),
    }, title),
  );
  const out = user
    ? [element("form", { method: "post", action: address("logout") }, element("button", { type: "submit" }, t("Log out {user}", { user })))]
    : [];
  const model = element("p", { class: "model" });
  place.replaceChildren(
    element("header", {},
      element("h1", {}, "jingxiang 镜像"),
      element("nav", { "aria-label": t("Language") }, ...switches, ...out),
      model),
  );
  listen({
    status({ model: name }) {
      const { title, notice } = models[name] ?? { title: name, notice: "" };
      model.replaceChildren(element("strong", {}, title), notice ? ` · ${notice}` : "");
    },
  });
}

/** Everything is said anew, and what was filled in is still there. */
function speak(name) {
  document.cookie = `language=${name}; max-age=${YEAR_S}; samesite=lax`; // of this folder, as that of the login is
  location.reload();
}
