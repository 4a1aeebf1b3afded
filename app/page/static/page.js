// What all parts of the page have in common: texts, addresses, elements, requests.

const { language, texts, user, models, rungs } = JSON.parse(document.getElementById("jingxiang").textContent);

export { language, models, rungs, user };

/** A text in the language of the page; {name} in it is filled in. All of them are in app/page/words.py. */
export function t(english, fields = {}) {
  return (texts[english] ?? english).replace(/\{(\w+)\}/g, (_, name) => fields[name]);
}

/** An address of ours, also below a folder of another site. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/** An element with properties (`class`, `data-…`, `aria-…` and `onclick` as in HTML) and children, texts or elements. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function" || key in made) made[key] = value;
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Ask the API; gives what it answers. Throws its error, in the language of the page. */
export async function ask(path, options = {}) {
  const response = await fetch(address(`api/${path}`), options).catch(() => {
    throw new Error(t("The server does not answer."));
  });
  if (response.status === 401) location.assign(address("login"));
  const answer = response.headers.get("content-type")?.includes("json") ? await response.json() : await response.text();
  if (!response.ok) throw new Error(answer.error ?? t("The server does not answer."));
  return answer;
}

export function gigabytes(bytes) {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}

/** Seconds as people say them: 9 s, 2 min 5 s. */
export function duration(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  if (whole < 60) return t("{seconds} s", { seconds: whole });
  return t("{minutes} min {seconds} s", { minutes: Math.floor(whole / 60), seconds: whole % 60 });
}
