// Two videos side by side, playing together, with what is different between them.

import { address, element, t } from "./page.js";

export function compare(one, other) {
  const videos = [one, other].map((job) =>
    element("video", { src: address(`api/jobs/${job.id}/video`), loop: true, muted: true, playsInline: true, controls: true, preload: "auto", "aria-label": job.prompt || job.id }));
  const sides = videos.map((video, index) => element("figure", {}, element("figcaption", {}, index ? "B" : "A"), video));
  const rows = different(one, other).map(([name, ...values]) =>
    element("tr", {}, element("th", { scope: "row" }, name), ...values.map((value) => element("td", {}, String(value)))));
  const head = element("tr", {}, element("th", { scope: "col" }, t("Setting")), element("th", { scope: "col" }, "A"), element("th", { scope: "col" }, "B"));
  const dialog = element("dialog", { class: "compare", "aria-label": t("Compare") },
    element("div", { class: "sides" }, ...sides),
    rows.length ? element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)) : element("p", {}, t("The same settings.")),
    element("button", { type: "button", onclick: () => dialog.close() }, t("Close")));
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector("#jobs").append(dialog);
  dialog.showModal();
  together(videos);
}

/** Whatever is done to one is done to the other. */
function together([one, other]) {
  for (const [leader, follower] of [[one, other], [other, one]]) {
    leader.addEventListener("play", () => follower.paused && follower.play());
    leader.addEventListener("pause", () => leader.currentTime < leader.duration && !follower.paused && follower.pause());
    leader.addEventListener("seeked", () => Math.abs(follower.currentTime - leader.currentTime) > 0.2 && (follower.currentTime = leader.currentTime));
  }
  Promise.all([one, other].map((video) => new Promise((ready) => video.addEventListener("canplaythrough", ready, { once: true })))).then(() => one.play());
}

function different(one, other) {
  const named = (job) => ({
    [t("Model")]: job.model,
    [t("Prompt")]: job.prompt,
    [t("Seed")]: job.seed,
    [t("Size")]: `${job.settings.width}x${job.settings.height}`,
    [t("Frames")]: job.settings.frames,
    [t("Steps")]: job.settings.steps,
    [t("Frames per second")]: job.settings.fps,
    [t("Guidance")]: job.settings.guidance,
    [t("Seconds")]: job.seconds,
  });
  const [first, second] = [named(one), named(other)];
  return Object.keys(first).filter((name) => first[name] !== second[name]).map((name) => [name, first[name], second[name]]);
}
