// Theme, rows, runs and videos. Without this script the page shows everything.
(() => {
  "use strict";
  const root = document.documentElement;
  const KEY = "tspbench-theme";
  root.classList.add("js");
  const remembered = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is not allowed here
    }
  };
  const setTheme = (choice) => {
    if (choice === "light" || choice === "dark") root.dataset.theme = choice;
    else delete root.dataset.theme;
    for (const button of document.querySelectorAll("[data-theme-choice]")) {
      button.setAttribute("aria-pressed", String(button.dataset.themeChoice === (root.dataset.theme ?? "auto")));
    }
  };
  setTheme(remembered());

  const chooseTheme = (choice) => {
    setTheme(choice);
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // it then lasts as long as the page is open
    }
  };
  const toggleRow = (number, shown) => {
    for (const element of document.querySelectorAll(`[data-row="${number}"]`)) element.classList.toggle("off", !shown);
  };
  const chooseVideo = (section, chosen) => {
    for (const figure of section.querySelectorAll("[data-video-shown]")) {
      figure.classList.toggle("unchosen", chosen !== "" && figure.dataset.videoShown !== chosen);
    }
    for (const button of section.querySelectorAll("[data-video]")) {
      button.setAttribute("aria-pressed", String(button.dataset.video === chosen));
    }
  };
  const chooseRun = (chosen) => {
    for (const section of document.querySelectorAll("[data-run]")) {
      section.classList.toggle("unchosen", chosen !== "" && section.dataset.run !== chosen);
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    setTheme(remembered());
    for (const button of document.querySelectorAll("[data-theme-choice]")) {
      button.addEventListener("click", () => chooseTheme(button.dataset.themeChoice));
    }
    for (const box of document.querySelectorAll("[data-toggle]")) {
      box.addEventListener("change", () => toggleRow(box.dataset.toggle, box.checked));
      toggleRow(box.dataset.toggle, box.checked); // a browser may remember what was ticked
    }
    for (const section of document.querySelectorAll(".videos")) {
      for (const button of section.querySelectorAll("[data-video]")) {
        button.addEventListener("click", () => chooseVideo(section, button.dataset.video));
      }
      chooseVideo(section, "1");
    }
    const runs = document.getElementById("choose-run");
    if (runs) {
      runs.addEventListener("change", () => chooseRun(runs.value));
      chooseRun(runs.value);
    }
  });
})();
