// The theme chosen in this browser, set before the page is painted. A plain script: a module would come too late.
(function () {
  "use strict";
  var root = document.documentElement;
  root.dataset.script = ""; // what only works with scripts may show
  try {
    var chosen = localStorage.getItem("tutelage:theme");
    if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  } catch (error) {
    // storage is switched off: the system's theme it is
  }
  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-toggle-theme]");
    if (!button) return;
    var dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("tutelage:theme", root.dataset.theme);
    } catch (error) {
      // it holds for this page only
    }
  });
})();
