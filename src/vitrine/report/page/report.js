/* The report's own code: viewers, and light or dark by hand. It follows viewer.js in the same script. */

mountViewers().then(() => {
  // Of a caption, the last word that looked somewhere is shown first: mostly the thing that it names.
  for (const line of document.querySelectorAll(".words")) {
    [...line.querySelectorAll("button:not(.unparticular)")].at(-1)?.click();
  }
});

const toggle = document.querySelector("#theme");
const dark = () => {
  const set = document.documentElement.dataset.theme;
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
toggle.setAttribute("aria-pressed", String(dark()));
toggle.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  toggle.setAttribute("aria-pressed", String(dark()));
});

/* The section that is being read, in the list of sections. */
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  },
  { rootMargin: "-10% 0px -80% 0px" },
);
for (const id of links.keys()) observer.observe(document.getElementById(id));

/* What is folded is printed too. */
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-printed]")) {
    details.open = false;
    delete details.dataset.printed;
  }
});
