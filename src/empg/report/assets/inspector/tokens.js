// The entropies of a step's tokens as a list, for the keyboard and for screen readers. It is made when it is opened.
document.querySelectorAll("details.token-list").forEach((details) => details.addEventListener("toggle", () => {
  const list = document.createElement("ol");
  list.className = "long";
  list.tabIndex = 0;
  list.setAttribute("aria-label", details.querySelector("summary").textContent);
  list.append(...[...details.previousElementSibling.querySelectorAll("span")].map((token) => {
    const item = document.createElement("li"), text = document.createElement("code");
    text.textContent = JSON.stringify(token.textContent); // quoted, since many tokens are spaces or line breaks
    text.dir = "auto";
    item.append(text, ` ${token.title}`);
    return item;
  }));
  details.append(list);
}, { once: true }));
