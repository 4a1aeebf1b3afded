// One video: how far it is, or itself, and what can be done with it.

import { address, duration, element, rungs, t } from "./page.js";

/** `act(name, job)` does what a button says; `isFresh`: see `picture`. */
export function card(first, act, isFresh) {
  const media = element("div", { class: "media" });
  const state = element("p", { class: "state" });
  const bar = element("progress", { max: first.steps, value: 0, "aria-label": t("Steps") });
  const prompt = element("p", { class: "prompt", id: `prompt-${first.id}` }, first.prompt);
  const settings = element("p", { class: "settings" });
  const notes = element("p", { class: "notes" });
  const buttons = element("div", { class: "buttons" });
  const shown = element("li", { class: "card", "data-job": first.id, tabIndex: -1 }, media, element("div", { class: "about" }, state, bar, prompt, settings, notes, buttons));
  const made = { element: shown, job: first, update, chosen };
  let drawn = "";
  let shows = "";
  let preview = 0;
  let isBusy = false;
  let isChosen = false;

  function update(job, isFresh) {
    made.job = job;
    shown.dataset.state = job.state;
    state.textContent = said(job);
    bar.hidden = job.state !== "running";
    bar.max = job.steps;
    bar.value = job.step;
    settings.textContent = described(job);
    notes.textContent = noted(job);
    const look = JSON.stringify([job.state, job.pinned, job.video]);
    if (look !== drawn) {
      drawn = look;
      preview = 0;
      const focused = buttons.contains(document.activeElement) ? document.activeElement : null;
      if (shows !== job.state) media.replaceChildren(picture(job, isFresh)); // a video goes on when it is pinned
      shows = job.state;
      buttons.replaceChildren(...offered(job).map(([name, label]) => button(name, label)));
      if (focused) (buttons.querySelector(`[data-does=${focused.dataset.does}]`) ?? shown).focus(); // not on another action
    }
    if (job.state === "running" && job.preview > preview) {
      preview = job.preview;
      const image = media.querySelector("img");
      image.src = address(`api/jobs/${job.id}/preview?step=${preview}`);
      image.alt = t("How it looks so far");
      image.classList.add("preview");
    }
  }

  function button(name, label) {
    if (name === "download") return element("a", { class: "button", "data-does": name, "aria-describedby": prompt.id, href: address(`api/jobs/${made.job.id}/video`), download: `${made.job.id}.mp4` }, label);
    const pressed = { pin: made.job.pinned, compare: isChosen }[name];
    return element("button", {
      type: "button",
      "data-does": name,
      "aria-describedby": prompt.id,
      ...(pressed === undefined ? {} : { "aria-pressed": String(pressed) }),
      onclick: async () => {
        if (isBusy) return; // not `disabled`, which would take the focus away
        isBusy = true;
        await act(name, made.job);
        isBusy = false;
      },
    }, label);
  }

  /** Whether it is one of those to be compared. */
  function chosen(is) {
    isChosen = is;
    buttons.querySelector("[data-does=compare]")?.setAttribute("aria-pressed", String(is));
  }

  update(first, isFresh);
  return made;
}

// Posters are not lazy by themselves: a long history would ask for all of them at once.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) come(target);
}, { rootMargin: "400px" });

function come(video) {
  near.unobserve(video);
  video.poster = video.dataset.poster;
  video.src = video.dataset.src;
}

/** `isFresh`: it was done while somebody looked; then all of it is fetched, for the server may be about to stop. */
function picture(job, isFresh) {
  const small = address(`api/jobs/${job.id}/picture?size=480`);
  if (job.state === "done") {
    const video = element("video", {
      controls: true,
      loop: true,
      muted: true,
      playsInline: true,
      autoplay: isFresh,
      preload: isFresh ? "auto" : "none",
      "aria-label": job.prompt || t("Video"),
    });
    video.dataset.poster = small;
    video.dataset.src = address(`api/jobs/${job.id}/video`);
    if (isFresh) come(video);
    else near.observe(video);
    return video;
  }
  return element("img", { src: small, alt: t("The picture that it is made from"), loading: "lazy" });
}

function said(job) {
  switch (job.state) {
    case "queued": {
      const ahead = job.position ? t("Waiting; {count} before it", { count: job.position }) : t("Waiting; it is the next");
      return job.wait_s == null ? ahead : `${ahead} · ${t("about {time}", { time: duration(job.wait_s) })}`;
    }
    case "running": {
      const step = job.step ? t("Step {step} of {steps}", job) : t("It is being begun");
      return job.left_s == null ? step : `${step} · ${t("about {time} left", { time: duration(job.left_s) })}`;
    }
    case "done":
      return t("Done in {time}", { time: duration(job.seconds) });
    case "failed":
      return t("Failed: {reason}", job);
    default:
      return t("Cancelled");
  }
}

function described({ model, settings, seed }) {
  const { width, height, frames, steps, fps, guidance } = settings;
  return [
    model,
    `${width}x${height}`,
    t("{frames} frames", { frames }),
    t("{steps} steps", { steps }),
    t("{fps} per second", { fps }),
    t("guidance {guidance}", { guidance }),
    t("seed {seed}", { seed }),
  ].join(" · ");
}

function noted(job) {
  return [
    job.negative_prompt && t("without: {text}", { text: job.negative_prompt }),
    job.unread && t("The prompt is too long; the model did not read: {text}", { text: job.unread }),
    rungs[job.rung],
  ].filter(Boolean).join(" · ");
}

function offered(job) {
  if (job.state === "queued" || job.state === "running") return [["cancel", t("Cancel")]];
  const all = [
    ["download", t("Download")],
    ["again", t("Same seed in Standard")],
    ["reuse", t("Use these settings")],
    ["compare", t("Compare")],
    ["pin", job.pinned ? t("Kept") : t("Keep")],
    ["retry", t("Try again")],
    ["remove", t("Delete")],
  ];
  const isDone = job.state === "done";
  const left = isDone ? ["retry", ...(job.preset === "standard" ? ["again"] : [])] : ["download", "again", "compare", "pin"];
  return all.filter(([name]) => !left.includes(name));
}
