// What the search quotes of a page: its article, and neither the theme's buttons nor formulas.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return; // not the page of search results
  const words = (element) => element.textContent.replace(/\s+/g, " ").trim();

  const articleOf = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const extra = ".headerlink, .column, .math, script, style, button";
    for (const element of page.querySelectorAll(extra)) element.remove();
    const id = anchor ? anchor.slice(1) : "";
    return (id && page.getElementById(id)) || page.querySelector("article");
  };

  // Where a keyword is, in a sentence rather than in code.
  const placeOf = (article, text, keywords) => {
    const find = (part) =>
      [...keywords].map((word) => part.toLowerCase().indexOf(word.toLowerCase()))
        .find((place) => place >= 0) ?? -1;
    for (const block of article.querySelectorAll("p, li")) {
      const sentence = words(block);
      const place = find(sentence);
      const start = text.indexOf(sentence);
      if (place >= 0 && start >= 0) return start + place;
    }
    return Math.max(find(text), 0);
  };

  Search.htmlToText = (html, anchor) => {
    const article = articleOf(html, anchor);
    return article ? words(article) : "";
  };

  Search.makeSearchSummary = (html, keywords, anchor) => {
    const article = articleOf(html, anchor);
    const text = article ? words(article) : "";
    if (!text) return null;
    const place = placeOf(article, text, keywords);
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
