// The browser's notifications, if somebody wants them: when a video is done and nobody looks at the page.

import { element, t } from "./page.js";

const KEY = "jingxiang-bell";

export class Bell {
  constructor() {
    this.button = element("button", { type: "button", class: "bell", hidden: !("Notification" in window), onclick: () => this.toggle() }, t("Tell me when it is done"));
    this.draw();
  }

  get isOn() {
    return "Notification" in window && Notification.permission === "granted" && localStorage.getItem(KEY) === "on";
  }

  async toggle() {
    const wanted = !this.isOn;
    if (wanted && Notification.permission !== "granted") await Notification.requestPermission();
    localStorage.setItem(KEY, wanted ? "on" : "off");
    this.draw();
  }

  draw() {
    this.button.setAttribute("aria-pressed", String(this.isOn));
    const isRefused = "Notification" in window && Notification.permission === "denied";
    this.button.disabled = isRefused;
    this.button.title = isRefused ? t("The browser does not allow notifications for this page.") : "";
  }

  ring(title, job) {
    if (!this.isOn || !document.hidden) return;
    try {
      const shown = new Notification(title, { body: job.prompt || job.reason, tag: job.id });
      shown.onclick = () => window.focus();
    } catch {
      this.button.hidden = true; // Chrome on Android has them for service workers only
    }
  }
}
