// Nothing on the page is older than five seconds; optuna-dashboard's own page asks every ten, never
// again for trials that have ended, and once for the list of studies.
"use strict";
(() => {
  const POLL_MS = 2500;
  const NARROW_PX = 700; // as in golf-phone.css
  const every = window.setInterval.bind(window);
  window.setInterval = (call, ms, ...rest) =>
    every(call, ms > POLL_MS && ms <= 10000 ? POLL_MS : ms, ...rest);

  // What the page has got of trials that have ended, and of the list.
  const ended = new Map();
  let listed = null;

  function reload() {
    // A note, say; still where another window has the focus for a while.
    const writes = document.activeElement?.tagName === "TEXTAREA";
    if (!writes) location.reload();
    return !writes;
  }

  async function received(method, url, answer) {
    if (method !== "GET") {
      ended.clear(); // an edit of this page, which it shows already
      listed = null;
      return;
    }
    const path = new URL(url, location.href).pathname;
    if (path === "/api/studies" && answer.ok) listed = await answer.clone().text();
    const now = answer.headers.get("Golf-Ended");
    if (now === null) return;
    const before = ended.get(path);
    if (before === undefined || before === now || reload()) ended.set(path, now);
  }

  const ask = window.fetch.bind(window);
  window.fetch = async (asked, options) => {
    const method = (options?.method ?? asked.method ?? "GET").toUpperCase();
    if (method === "GET" && Math.min(innerWidth, screen.width) < NARROW_PX) {
      asked = new Request(asked, options);
      asked.headers.set("Golf-Phone", "yes"); // for figures of short lines
    }
    const answer = await ask(asked, options);
    await received(method, asked.url ?? asked, answer);
    return answer;
  };

  async function lookAtList() {
    const before = listed;
    const answer = await ask("/api/studies");
    if (!answer.ok || before === null || before !== listed) return;
    if ((await answer.text()) !== before) reload();
  }

  function compareAgain() {
    // The page reads its studies anew when the address changes; an empty parameter means nothing.
    const url = new URL(location.href);
    const search = url.search.endsWith("&") ? url.search.slice(0, -1) : `${url.search || "?"}&`;
    history.replaceState(history.state, "", url.pathname + search + url.hash);
    dispatchEvent(new PopStateEvent("popstate", { state: history.state }));
  }

  every(() => {
    const page = location.pathname.replace(/\/$/, "");
    if (page === "/dashboard" || page === "/dashboard/compare-studies") lookAtList().catch(() => {});
    if (page === "/dashboard/compare-studies") compareAgain();
  }, POLL_MS);
})();
