// The videos: those that wait and run, then the others, as they come and go.

import { card } from "./card.js";
import { compare } from "./compare.js";
import { keepWhile, listen } from "./live.js";
import { ask, element, t } from "./page.js";
import { Bell } from "./bell.js";

const FIRST = 100; // that the server tells at the start, see app/board.py
const PAGE = 30;
const ACTIVE = ["queued", "running"];

export default function mount({ element: place, trigger }) {
  const cards = new Map();
  const compared = [];
  const list = element("ul", { class: "cards", "aria-label": t("Videos") });
  const empty = element("p", { class: "empty" }, t("Nothing has been made yet."));
  const trouble = element("p", { class: "trouble", role: "alert", hidden: true });
  const told = element("p", { class: "told", role: "status" });
  const more = element("button", { type: "button", class: "more", hidden: true, onclick: older }, t("Show older ones"));
  const count = element("span", { class: "count" });
  const heading = element("h2", { tabIndex: -1 }, t("Videos"), " ", count);
  let cursor = null; // the last of those that were asked for in their order: older ones come after it
  const bell = new Bell();
  place.replaceChildren(
    element("section", { "aria-label": t("Videos") },
      element("div", { class: "bar" }, heading, bell.button),
      trouble, told, empty, list, more),
  );

  const does = {
    cancel: (job) => ask(`jobs/${job.id}`, { method: "DELETE" }),
    remove: async (job) => {
      await ask(`jobs/${job.id}`, { method: "DELETE" });
      forget(job.id);
    },
    retry: (job) => ask(`jobs/${job.id}/retry`, { method: "POST" }),
    pin: async (job) => show(await ask(`jobs/${job.id}/pin?pinned=${!job.pinned}`, { method: "POST" })),
    again: (job) => ask(`jobs/${job.id}/again?preset=standard`, { method: "POST" }),
    reuse: (job) => trigger("select", { id: job.id }),
    compare: (job) => choose(job),
  };

  async function act(name, job) {
    trouble.hidden = true;
    try {
      await does[name](job);
    } catch (error) {
      complain(error.message);
    }
  }

  function complain(text) {
    if (!trouble.hidden && trouble.textContent === text) return; // it is said once
    trouble.textContent = text;
    trouble.hidden = false;
  }

  /** What the server says of a job; `isNews`: it has just happened. A short one may be done when it is first heard of. */
  function show(job, isNews = false) {
    const known = cards.get(job.id);
    const isNewest = [...cards.values()].every((other) => other.job.created <= job.created);
    const hasChanged = isNews && (known ? known.job.state !== job.state : isNewest);
    const each = known ?? card(job, act, hasChanged);
    each.update(job, hasChanged);
    cards.set(job.id, each);
    if (hasChanged && !ACTIVE.includes(job.state)) announce(job);
  }

  function announce(job) {
    const words = { done: t("A video is done."), failed: t("A video has failed."), cancelled: t("A video was cancelled.") };
    told.textContent = words[job.state];
    if (job.state !== "cancelled") bell.ring(words[job.state], job);
  }

  function forget(id) {
    const gone = cards.get(id)?.element;
    const next = gone?.nextElementSibling ?? gone?.previousElementSibling;
    const hadFocus = gone?.contains(document.activeElement);
    if (cursor?.id === id) cursor = cards.get(gone.previousElementSibling?.dataset.job)?.job ?? null;
    gone?.remove();
    cards.delete(id);
    if (hadFocus) (next?.querySelector("button") ?? heading).focus();
    const place_ = compared.findIndex((job) => job.id === id);
    if (place_ >= 0) compared.splice(place_, 1);
    arrange();
  }

  /** The order of the queue, then the last that has ended first. Elements stay, so that videos go on playing. */
  function arrange() {
    const rank = ({ job }) => (job.state === "running" ? 0 : job.state === "queued" ? 1 + job.position : Infinity);
    const sorted = [...cards.values()].sort((one, other) =>
      rank(one) === rank(other) ? (other.job.ended ?? 0) - (one.job.ended ?? 0) || (one.job.id < other.job.id ? -1 : 1) : rank(one) - rank(other));
    const focused = document.activeElement;
    sorted.forEach(({ element: shown }, index) => {
      if (list.children[index] !== shown) list.insertBefore(shown, list.children[index] ?? null);
    });
    if (list.contains(focused) && focused !== document.activeElement) focused.focus({ preventScroll: true });
    empty.hidden = cards.size > 0;
    const active = sorted.filter(({ job }) => ACTIVE.includes(job.state)).length;
    count.textContent = active ? t("{count} under way", { count: active }) : "";
    document.title = active ? `(${active}) jingxiang` : "jingxiang";
  }

  /** The second one that is chosen is shown beside the first. */
  function choose(job) {
    const index = compared.findIndex((other) => other.id === job.id);
    if (index >= 0) compared.splice(index, 1);
    else compared.push(job);
    if (compared.length === 2) compare(...compared.splice(0));
    for (const each of cards.values()) each.chosen(compared.some((other) => other.id === each.job.id));
  }

  async function older() {
    try {
      const found = await ask(`jobs?most=${PAGE}${cursor ? `&before=${cursor.id}` : ""}`);
      found.forEach((job) => show(job));
      arrange();
      reached(found, PAGE);
      if (more.hidden) heading.focus();
    } catch (error) {
      complain(error.message);
    }
  }

  /** `found` are the next ones of the server's list; `most` of them were asked for. */
  function reached(found, most) {
    cursor = found.at(-1) ?? cursor;
    more.hidden = found.length < most;
  }

  keepWhile(() => [...cards.values()].some(({ job }) => ACTIVE.includes(job.state)));
  listen({
    connected(is) {
      if (is) trouble.hidden = true;
      else complain(t("The server does not answer; trying again."));
      document.documentElement.dataset.live = String(is);
    },
    jobs(all) {
      trouble.hidden = true; // of a store that did not answer
      const isFirst = cards.size === 0;
      const there = new Set(all.map((job) => job.id));
      for (const id of [...cards.keys()]) if (!there.has(id)) forget(id);
      all.forEach((job) => show(job, !isFirst));
      reached(all, FIRST);
      arrange();
      document.documentElement.dataset.ready = "true";
    },
    job(one) {
      // One that is older than all that are shown comes when it is asked for.
      const isHidden = !more.hidden && !cards.has(one.id) && one.ended !== null && one.ended < (cursor?.ended ?? -Infinity);
      if (!isHidden) show(one, true);
      arrange();
    },
    gone: ({ id }) => forget(id),
    trouble: ({ message }) => complain(message),
    status({ draining }) {
      if (draining) complain(t("The server is about to stop; what waits keeps its place in the queue."));
    },
  });
}
