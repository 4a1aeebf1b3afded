// What changes on the server, as it changes: one stream of events for all parts of the page.

import { address, ask } from "./page.js";

const EVENTS = ["jobs", "job", "gone", "status", "trouble"];
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
const HIDDEN_MS = 60_000; // for a job that was handed in just before somebody looked elsewhere

const listeners = [];
const last = new Map(); // for whoever comes later
let source = null;
let wait = FIRST_WAIT_MS;
let isNeeded = () => false;

/** Be told: `told` has a function for any of `EVENTS`, and `connected(is)`. */
export function listen(told) {
  listeners.push(told);
  for (const [name, value] of last) told[name]?.(value);
  if (source === null && listeners.length === 1) open();
}

/** `needed` says whether the stream is wanted although nobody looks at the page. */
export function keepWhile(needed) {
  isNeeded = needed;
}

function tell(name, value) {
  if (name === "jobs" || name === "status" || name === "connected") last.set(name, value);
  for (const told of listeners) told[name]?.(value);
}

function open() {
  source = new EventSource(address("api/events"));
  for (const name of EVENTS) {
    source.addEventListener(name, (event) => {
      wait = FIRST_WAIT_MS;
      tell(name, JSON.parse(event.data));
      if (document.hidden) setTimeout(closeUnseen, HIDDEN_MS);
    });
  }
  source.onopen = () => tell("connected", true);
  source.onerror = lost;
}

// A browser gives up on a stream that was refused once, as by a server that is just starting: so this asks again.
function lost() {
  close();
  tell("connected", false);
  ask("queue").catch(() => {}); // if the login has ended, this leads to it
  setTimeout(() => source === null && (!document.hidden || isNeeded()) && open(), wait);
  wait = Math.min(2 * wait, LONGEST_WAIT_MS);
}

function close() {
  source?.close();
  source = null;
}

// A browser keeps six connections to a server, for all of its pages: one that nobody looks at does without.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && source === null) open();
  else if (document.hidden) setTimeout(closeUnseen, HIDDEN_MS);
});

function closeUnseen() {
  if (document.hidden && !isNeeded()) close();
}

addEventListener("pagehide", close);
addEventListener("pageshow", (event) => event.persisted && source === null && open());
