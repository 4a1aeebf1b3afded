// What the app runs on: cards and their memory, the model, the queue, the disk.

import { listen } from "./live.js";
import { ask, element, gigabytes, t } from "./page.js";

const STATES = {
  loading: ({ model }) => t("loads {model}", { model }),
  ready: () => t("ready"),
  busy: () => t("makes a video"),
  idle: () => t("idle"),
  failed: () => t("could not load its model"),
};

// How a worker's model runs, for videos of that size (width x height x frames).
const SPEEDS = {
  eager: (size) => t("not compiled for {size}", { size }),
  compiling: (size) => t("compiling in the background for {size}, the next videos will be faster", { size }),
  compiled: (size) => t("compiled for {size}: faster from now on", { size }),
};

export default function mount({ element: place }) {
  const facts = element("dl", {});
  const workers = element("ul", { class: "workers" });
  const speed = element("p", { class: "speed", role: "status" }); // said aloud when it changes
  const models = element("div", { class: "models" });
  const trouble = element("p", { class: "trouble", role: "alert", hidden: true });
  place.replaceChildren(element("section", { "aria-label": t("System") }, workers, speed, facts, trouble, models));

  listen({
    status(now) {
      facts.replaceChildren(
        ...fact(t("Model"), now.loading ? t("loads {model}", { model: now.loading }) : now.model),
        ...fact(t("Queue"), t("{running} running, {queued} of at most {limit} waiting", { ...now, limit: now.waiting_limit })),
        ...fact(t("Disk"), t("{size} free", { size: gigabytes(now.disk_free_bytes) })),
        ...(now.draining ? fact(t("Server"), t("is about to stop")) : []));
      workers.replaceChildren(...now.workers.map(described));
      const speeds = [...new Set(now.workers.map(told))].filter(Boolean).join(" · ");
      if (speed.textContent !== speeds) speed.textContent = speeds;
      offer(now);
    },
  });

  /** Buttons to load models; while one is being loaded, they wait. */
  function offer(now) {
    const known = [...new Set(now.workers.flatMap((worker) => worker.models))].sort();
    const key = JSON.stringify([known, now.model, now.loading]);
    if (models.dataset.key === key) return;
    models.dataset.key = key;
    const focused = models.contains(document.activeElement) ? document.activeElement.dataset.model : null;
    models.replaceChildren(...known.map((name) =>
      element("button", {
        type: "button",
        "data-model": name,
        "aria-disabled": now.loading ? "true" : null, // not `disabled`, which would take the focus away
        onclick: () => now.loading || load(name),
      }, name === now.loading ? t("loads {model}", { model: name }) : name === now.model ? t("Load {model} again", { model: name }) : t("Switch to {model}", { model: name }))));
    if (focused !== null) models.querySelector(`[data-model="${CSS.escape(focused)}"]`)?.focus();
  }

  async function load(name) {
    trouble.hidden = true;
    try {
      await ask(`models/${name}/load`, { method: "POST" });
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
    }
  }
}

function fact(name, value) {
  return [element("dt", {}, name), element("dd", {}, value)];
}

function told(worker) {
  return SPEEDS[worker.speed]?.(worker.speed_of);
}

function described(worker) {
  const used = worker.total_bytes - worker.free_bytes;
  const memory = worker.total_bytes
    ? [
      element("progress", { class: "memory", max: worker.total_bytes, value: used, "aria-label": t("Memory in use") }),
      element("span", {}, t("{free} of {total} free", { free: gigabytes(worker.free_bytes), total: gigabytes(worker.total_bytes) })),
    ]
    : [];
  // How far it is, nobody says: a bar without a value moves until it is done.
  const loading = worker.state === "loading" ? [element("progress", { "aria-label": t("loads {model}", worker) })] : [];
  return element("li", {}, element("strong", {}, worker.device), ` ${STATES[worker.state](worker)}`, ...loading, ...memory, ...(worker.reason ? [element("p", { class: "trouble" }, worker.reason)] : []));
}
