// Refreshes what is shown while it changes. Without it, pages are as they were loaded.
const main = document.querySelector("main[data-refresh]");

async function refresh() {
  const focused = document.activeElement;
  const busy = main.contains(focused) && focused !== main;
  if (!document.hidden && !busy) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected) return location.reload(); // the session is over
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.querySelector("main");
      if (answer.ok && fresh) {
        main.replaceChildren(...fresh.childNodes);
        if (!fresh.dataset.refresh) return undefined; // it has come to its end
      }
    } catch {
      // The server is away: what is shown stays.
    }
  }
  return setTimeout(refresh, 1000 * main.dataset.refresh);
}

if (main) setTimeout(refresh, 1000 * main.dataset.refresh);
