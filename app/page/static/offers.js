// What can be chosen of, and what cannot be now: for the choices, which are there only while they are unfolded.

import { listen } from "./live.js";

const LATE_MS = 3000; // for the form to be filled after the first jobs are there

let offered = {};
const told = new Set();

/** What is offered under that name: {legend, options: [{value, label, detail, reason}]}. */
export function offer(name) {
  return offered[name];
}

/** Call `tell` whenever it changes. */
export function follow(tell) {
  told.add(tell);
}

export default function mount({ props, watch, trigger }) {
  let room = null;

  function take() {
    offered = props.value;
    for (const tell of told) tell();
  }

  watch("value", take);
  take();
  listen({
    jobs() {
      setTimeout(() => offered.size.options.length || trigger("select"), LATE_MS);
    },
    status({ workers }) {
      // What fits depends on it: then the server says it anew.
      const seen = JSON.stringify(workers.map(({ state, model, models, free_bytes, held_bytes }) =>
        [state === "failed", model, models, Math.round((free_bytes + held_bytes) / 1e8)]));
      if (room !== null && seen !== room) trigger("submit");
      room = seen;
    },
  });
}
