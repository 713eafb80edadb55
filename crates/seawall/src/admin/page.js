// Fetches the page's content again every two seconds while somebody looks at it.
"use strict";
const main = document.getElementById("main");
const connection = document.getElementById("connection");

async function refresh() {
  if (document.hidden || !document.getSelection().isCollapsed) return;
  try {
    const answer = await fetch("/fragment", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(answer.status);
    main.innerHTML = await answer.text();
    connection.textContent = "";
  } catch {
    connection.textContent = "not answering: what you see is old";
  }
}

setInterval(refresh, 2000);
document.addEventListener("visibilitychange", refresh);
