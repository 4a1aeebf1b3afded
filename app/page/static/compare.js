// Two videos side by side, playing together, with what is different between them.

import { address, element, t } from "./page.js";

export function compare(one, other) {
  const videos = [one, other].map((job) =>
    element("video", { src: address(`api/jobs/${job.id}/video`), muted: true, playsInline: true, controls: true, preload: "auto", "aria-label": job.prompt || job.id }));
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

/** Whatever is done to one is done to the other; when both have come to their end, they begin again. */
function together(videos) {
  const [one, other] = videos;
  for (const [leader, follower] of [[one, other], [other, one]]) {
    leader.addEventListener("play", () => follower.paused && !follower.ended && follower.play());
    leader.addEventListener("pause", () => !leader.ended && !follower.paused && follower.pause());
    leader.addEventListener("seeked", () => {
      const time = Math.min(leader.currentTime, follower.duration);
      if (Math.abs(follower.currentTime - time) > 0.2) follower.currentTime = time;
    });
    leader.addEventListener("ended", () => {
      if (!follower.ended) return;
      videos.forEach((video) => { video.currentTime = 0; });
      one.play();
      other.play();
    });
  }
  const ready = (video) => new Promise((done) => video.addEventListener("canplaythrough", done, { once: true }));
  Promise.all(videos.map(ready)).then(() => one.isConnected && one.play());
}

function different(one, other) {
  const named = (job) => ({
    [t("Model")]: job.model,
    [t("Prompt")]: job.prompt,
    [t("What it should not show")]: job.negative_prompt,
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
