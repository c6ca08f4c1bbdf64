"use strict";
// What all plots of the page have in common: their colours follow those of the page.
const embedOps = (() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const followers = [];

  function colors() {
    return dark.matches ? {ink: "#e4e8ee", soft: "#a0aab9", ground: "#12161c"} : {ink: "#1c2330", soft: "#566072", ground: "#ffffff"};
  }

  function paint() {
    const {soft} = colors();
    for (const doc of globalThis.Bokeh?.documents ?? []) {
      for (const plot of doc.roots()) {
        for (const axis of [...(plot.below ?? []), ...(plot.left ?? [])]) {
          axis.setv({
            axis_line_color: soft, major_tick_line_color: soft,
            axis_label_text_color: soft, major_label_text_color: soft,
          });
        }
      }
    }
    followers.forEach((follow) => follow(colors()));
  }

  function drawn(name) {
    for (const doc of globalThis.Bokeh?.documents ?? []) {
      const model = doc.get_model_by_name(name);
      if (model !== null) return model;
    }
    return null;
  }

  // Bokeh adds its documents when the page has loaded, and knows sizes a moment later.
  function whenDrawn(name, begin) {
    const plot = drawn(name);
    if (plot !== null && plot.inner_width > 0) begin(plot);
    else setTimeout(() => whenDrawn(name, begin), 30);
  }

  dark.addEventListener("change", paint);
  addEventListener("load", () => setTimeout(paint, 0));
  return {whenDrawn, colors, follow: (act) => { followers.push(act); act(colors()); }};
})();
