// What the search quotes of a page: its article, and neither the theme's buttons nor formulas.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return; // not the page of search results
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const extra = ".headerlink, .column, .math, script, style, button";
    for (const element of page.querySelectorAll(extra)) element.remove();
    const id = anchor ? anchor.slice(1) : "";
    const section = (id && page.getElementById(id)) || page.querySelector("article");
    return section ? section.textContent.replace(/\s+/g, " ").trim() : "";
  };
  Search.makeSearchSummary = (html, keywords, anchor) => {
    const text = Search.htmlToText(html, anchor);
    if (!text) return null;
    const places = [...keywords].map((word) => text.toLowerCase().indexOf(word.toLowerCase()));
    const place = Math.max(places.find((found) => found >= 0) ?? 0, 0);
    const before = text.slice(Math.max(place - 100, 0), place);
    const sentence = before.search(/[.:!?] [^.:!?]*$/); // begin with the sentence, or with a word
    const cut = sentence >= 0 ? sentence + 2 : place > 100 ? before.indexOf(" ") + 1 : 0;
    const start = Math.max(place - 100, 0) + cut;
    const end = start + 240 < text.length ? text.lastIndexOf(" ", start + 240) : text.length;
    const summary = document.createElement("p");
    summary.classList.add("context");
    const dots = [start > 0 ? "… " : "", end < text.length ? " …" : ""];
    summary.textContent = dots[0] + text.slice(start, end) + dots[1];
    return summary;
  };
});
