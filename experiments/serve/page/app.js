// The page: asks /search as you type, and shows the ranker's order beside CLIP's. Whatever comes from the corpus is put
// in as text, never as HTML.

const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const DEBOUNCE = 180; // ms

let runs = {}; // what is asked ("text", "image") -> what /runs tells of it
let most = { k: 100, text: 1000, body: 10 * 2 ** 20 };
let mode = "text";
let image = null; // the file that asks
let asked = 0; // number of the latest search; answers to earlier ones are dropped
let underway = null; // its AbortController
let timer = 0;

// Control characters, and what turns the direction of the text around it, would act without being seen.
const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;
const plain = (text) => String(text).replace(unseen, "\ufffd");

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = plain(text);
  return made;
}

// ---- what is asked -------------------------------------------------------------------------------------------------

function filters() {
  const where = {};
  for (const select of at("filters").querySelectorAll("select")) {
    // The value as the corpus has it: a number must not become a string.
    if (select.value) where[select.name] = JSON.parse(select.value);
  }
  return where;
}

function body() {
  const k = Number(at("k").value);
  const where = filters();
  if (mode === "text") {
    return { headers: { "content-type": "application/json" }, body: JSON.stringify({ text: at("q").value, k, where }) };
  }
  const form = new FormData();
  form.append("image", image, image.name || "pasted");
  form.append("k", k);
  form.append("where", JSON.stringify(where));
  return { body: form };
}

function keepInAddress() {
  const said = new URLSearchParams();
  if (Object.keys(runs).length > 1 && mode === "image") said.set("by", "image");
  if (mode === "text" && at("q").value) said.set("q", at("q").value);
  if (at("k").value !== "10") said.set("k", at("k").value);
  for (const [name, value] of Object.entries(filters())) said.set(`where.${name}`, JSON.stringify(value));
  history.replaceState(null, "", said.size ? `?${said}` : location.pathname);
}

function soon(wait = DEBOUNCE) {
  clearTimeout(timer);
  timer = setTimeout(search, wait);
}

async function search() {
  clearTimeout(timer);
  keepInAddress();
  const mine = ++asked;
  underway?.abort();
  fail("");
  if (mode === "text" ? !at("q").value.trim() : !image) {
    at("status").textContent = "";
    return showEmpty();
  }
  underway = new AbortController();
  at("results").setAttribute("aria-busy", "true");
  const started = performance.now();
  try {
    const answer = await fetch("/search", { method: "POST", signal: underway.signal, ...body() });
    const told = await answer.json().catch(() => ({})); // a server with too many clients, or one in front, says no JSON
    if (mine !== asked) return;
    if (answer.ok) show(told, performance.now() - started);
    else {
      fail(told.error ?? `The server can’t answer just now (${answer.status}).`, answer.status >= 429);
      if (answer.status < 429) at("results").hidden = true; // of a busy server, what was found before may stay
      const after = Number(answer.headers.get("retry-after"));
      if (after > 0 && after <= 10) soon(1000 * after);
    }
  } catch (error) {
    if (error.name !== "AbortError" && mine === asked) {
      fail("The server doesn’t answer. Is it still running?", true);
    }
  } finally {
    if (mine === asked) at("results").setAttribute("aria-busy", "false");
  }
}

// ---- what is shown -------------------------------------------------------------------------------------------------

function fail(said, again = false) {
  if (said) at("status").textContent = "";
  at("error").textContent = said;
  at("error").hidden = !said;
  at("again").hidden = !again;
  if (said) at("empty").hidden = true;
}

function showEmpty() {
  const run = runs[mode];
  const [title, text] = run.candidates
    ? [
        mode === "text" ? "What are you looking for?" : "Which image shall be described?",
        mode === "text"
          ? `Describe it: ${number.format(run.candidates)} images are searched as you type.`
          : `Drop, paste or choose one: ${number.format(run.candidates)} captions are searched for it.`,
      ]
    : ["The corpus is empty", "Add something to it with rank-xmodal add, then search."];
  at("empty").querySelector("h2").textContent = title;
  at("empty").querySelector("p").textContent = text;
  at("empty").hidden = false;
  at("results").hidden = true;
  at("results").setAttribute("aria-busy", "false");
}

function show(told, milliseconds) {
  at("empty").hidden = true;
  at("results").hidden = !told.hits.length;
  at("results").className = told.direction === "t2i" ? "pictures" : "captions";
  at("ranker").replaceChildren(...told.hits.map((hit) => card(hit, hit.rank, hit.clip_rank, "was")));
  at("clip").replaceChildren(...told.clip.map((hit) => card(hit, hit.clip_rank, hit.rank, "now")));
  for (const list of [at("ranker"), at("clip")]) if (list.firstChild) list.firstChild.tabIndex = 0;
  const moved = told.hits.filter((hit) => hit.rank !== hit.clip_rank).length;
  const parts = told.timings;
  at("status").textContent = told.hits.length
    ? `${number.format(told.found)} candidates put in order, ${moved} of the best ${told.hits.length} moved; ` +
      `${milliseconds.toFixed(0)} ms (encoding ${parts.encode_ms.toFixed(0)}, search ${parts.search_ms.toFixed(0)})`
    : Object.keys(filters()).length
      ? "Nothing passes this filter. Choose another, or “all”."
      : "The corpus is empty.";
}

function movement(before, after, word, other) {
  if (other === null) return element("span", "move", "not ranked");
  if (before === after) return element("span", "move", "=");
  const rose = after < before;
  return element("span", `move ${rose ? "up" : "down"}`, `${rose ? "▲" : "▼"} ${word} ${number.format(other)}`);
}

function card(hit, place, other, word) {
  const made = element("li", "hit");
  made.dataset.row = hit.row;
  made.tabIndex = -1;
  const facts = element("div", "facts");
  facts.append(element("span", "place", place ?? "–"), movement(hit.clip_rank, hit.rank, word, other));
  const sure = hit.probability === null ? "" : `p ${hit.probability.toFixed(2)} · `;
  const score = hit.score === null ? "" : ` · score ${hit.score.toFixed(2)}`;
  const told = element("span", "told", `${sure}cos ${hit.cosine?.toFixed(3) ?? "–"}${score}`);
  made.title = [hit.id, hit.path ?? "", `score ${hit.score}, cosine ${hit.cosine}`].map(plain).join("\n");
  const what = hit.text ?? hit.id;
  made.setAttribute("aria-label", plain(`${place}: ${what}; ${word} ${other ?? "not ranked"}`));
  if (hit.text !== undefined) {
    const caption = element("div", "caption", hit.text || String(hit.id));
    caption.append(told);
    made.append(facts, caption);
    return made;
  }
  facts.append(told);
  made.append(picture(hit), facts);
  return made;
}

function picture(hit) {
  const gone = () => element("div", "picture gone", `no picture of ${hit.id}`);
  if (!hit.image) return gone();
  const made = element("img", "picture");
  made.loading = "lazy";
  made.decoding = "async";
  made.alt = plain(hit.id);
  made.src = hit.image;
  made.addEventListener("error", () => made.replaceWith(gone()), { once: true });
  return made;
}

// ---- images that ask -----------------------------------------------------------------------------------------------

function take(file) {
  if (!file) return;
  if (!runs.image) return fail("Images can’t ask here: the server was started without a run of the direction i2t.");
  // Not every browser knows what a phone's photo is.
  if (!file.type.startsWith("image/") && !/\.(heic|heif|hif)$/i.test(file.name)) {
    return fail(`${file.name || "This"} is no image. Bring a JPEG, PNG or WebP file.`);
  }
  if (file.size > most.body - 4096) {
    return fail(`${file.name || "The image"} is larger than ${most.body / 2 ** 20} MB. Scale it down.`);
  }
  image = file;
  setMode("image");
  URL.revokeObjectURL(at("preview").src);
  at("preview").src = URL.createObjectURL(file);
  at("preview").alt = `The image that asks: ${file.name || "pasted"}`;
  at("preview").hidden = at("remove").hidden = false;
  at("drop-text").textContent = file.name || "a pasted image";
  at("choose").textContent = "Choose another";
  search();
}

function forget() {
  image = null;
  URL.revokeObjectURL(at("preview").src);
  at("preview").removeAttribute("src");
  at("preview").hidden = at("remove").hidden = true;
  at("drop-text").textContent = "Drop or paste an image here, or choose one.";
  at("choose").textContent = "Choose an image";
  at("file").value = "";
}

function textForField(event) {
  return event.target === at("q") && !event.dataTransfer?.types.includes("Files");
}

function setMode(wanted) {
  mode = wanted;
  for (const radio of document.getElementsByName("mode")) radio.checked = radio.value === mode;
  at("ask-text").hidden = mode !== "text";
  at("ask-image").hidden = mode !== "image";
  const run = runs[mode];
  const what = mode === "text" ? "images" : "captions";
  at("served").textContent = `${run.run}, ${number.format(run.candidates)} ${what}`;
  at("ranker-note").textContent = run.scorer;
  const before = filters();
  at("filters").replaceChildren(
    ...Object.entries(run.choices).map(([name, values]) => {
      const label = element("label", "", `${name} `);
      const select = element("select");
      select.name = name;
      select.append(new Option("all", ""), ...values.map((value) => new Option(plain(value), JSON.stringify(value))));
      select.value = name in before ? JSON.stringify(before[name]) : "";
      if (select.selectedIndex < 0) select.value = "";
      label.append(select);
      return label;
    }),
  );
}

// ---- keys ----------------------------------------------------------------------------------------------------------

function clear() {
  if (mode === "text") at("q").value = "";
  else forget();
  search();
  at(mode === "text" ? "q" : "file").focus();
}

function neighbour(hit, key) {
  const hits = [...hit.parentElement.children];
  const place = hits.indexOf(hit);
  if (key === "Home") return hits[0];
  if (key === "End") return hits.at(-1);
  const columns = hits.filter((other) => other.offsetTop === hits[0].offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key];
  return hits[place + step];
}

function move(event, hit) {
  const to = neighbour(hit, event.key);
  event.preventDefault();
  if (to) go(to, hit);
  else if (event.key === "ArrowUp" && mode === "text") at("q").focus();
}

function go(to, from) {
  if (from) from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target instanceof HTMLSelectElement) return; // its own keys: Escape closes its list
  const typing = event.target === at("q");
  if (event.key === "Escape") clear();
  else if (event.key === "/" && !typing && runs.text) {
    event.preventDefault();
    if (mode !== "text") {
      setMode("text");
      search();
    }
    at("q").select();
  } else if (event.key === "ArrowDown" && typing && at("ranker").firstChild) {
    event.preventDefault();
    go(at("ranker").firstChild);
  } else if (/^(Arrow(Up|Down|Left|Right)|Home|End)$/.test(event.key) && event.target.classList?.contains("hit")) {
    move(event, event.target);
  }
}

function twins(event) {
  const hit = event.target.closest?.(".hit");
  for (const other of document.querySelectorAll(".hit.twin")) other.classList.remove("twin");
  if (!hit) return;
  for (const other of document.querySelectorAll(".hit")) {
    if (other !== hit && other.dataset.row === hit.dataset.row) other.classList.add("twin");
  }
}

// ---- start ---------------------------------------------------------------------------------------------------------

function listen() {
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  at("q").addEventListener("input", () => soon());
  at("options").addEventListener("change", search);
  at("file").addEventListener("change", () => take(at("file").files[0]));
  at("remove").addEventListener("click", clear);
  at("again").addEventListener("click", search);
  at("preview").addEventListener("error", () => (at("preview").hidden = true));
  at("modes").addEventListener("change", (event) => {
    setMode(event.target.value);
    search();
  });
  document.addEventListener("keydown", pressed);
  for (const kind of ["pointerover", "focusin"]) at("results").addEventListener(kind, twins);
  at("results").addEventListener("pointerleave", twins);
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])][0];
    if (file) {
      event.preventDefault();
      take(file);
    }
  });
  document.addEventListener("dragover", (event) => {
    if (textForField(event)) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dragging");
    if (textForField(event)) return;
    event.preventDefault(); // a browser would open what is dropped
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
    else fail("That is no file. Save the image first, or copy and paste it.");
  });
}

function fromAddress() {
  const said = new URLSearchParams(location.search);
  const by = said.get("by") ?? "text";
  setMode(Object.hasOwn(runs, by) ? by : Object.keys(runs)[0]);
  at("q").value = said.get("q") ?? "";
  if ([...at("k").options].some((option) => option.value === said.get("k"))) at("k").value = said.get("k");
  for (const select of at("filters").querySelectorAll("select")) {
    select.value = said.get(`where.${select.name}`) ?? "";
    if (select.selectedIndex < 0) select.value = "";
  }
}

async function start() {
  try {
    const answer = await fetch("/runs");
    const told = await answer.json();
    if (!answer.ok) return fail(told.error);
    most = told.most;
    for (const run of told.runs) runs[run.asks] = run;
  } catch {
    return fail("The server doesn’t answer. Is it still running? Start it again, then load this page anew.");
  }
  at("q").maxLength = most.text;
  at("modes").hidden = Object.keys(runs).length < 2;
  at("k").append(...[5, 10, 20, 50, 100].filter((k) => k <= most.k).map((k) => new Option(k, k, k === 10, k === 10)));
  listen();
  fromAddress();
  if (mode === "text") at("q").focus();
  search();
}

start();
