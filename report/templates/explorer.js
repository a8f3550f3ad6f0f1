// The routing explorer: where each patch of some test images went, two routers side by side.
(() => {
  const section = document.getElementById("explorer");
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  // Paul Tol's "muted" scheme, made for colour-blind readers, with the orange of his "vibrant".
  const PALETTE = [
    "332288", "ddcc77", "44aa99", "cc6677", "88ccee", "117733", "ee7733", "aa4499", "999933", "882255",
  ].map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const [FAINTEST, STRONGEST, FADED] = [90, 205, 12]; // opacity of a patch, of 255
  const TOP_PATCHES = 8;

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const percent = (share) => `${Math.round(100 * share)} %`;
  const control = (name) => section.querySelector(`.explorer-controls [name=${name}]`);
  const [layers, times, classes, bare] = ["layer", "time", "class", "bare"].map(control);

  function element(tag, text = "", className = "") {
    const made = document.createElement(tag);
    made.textContent = text;
    made.className = className;
    return made;
  }

  function canvasOf(width, height, draw) {
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [width, height];
    draw(canvas.getContext("2d"));
    return canvas;
  }

  function colourOf(expert, number) {
    if (number <= PALETTE.length) return PALETTE[expert];
    const [hue, light] = [(expert * 137.5) % 360, [0.4, 0.55, 0.7][expert % 3]];
    const part = (at) => {
      const turn = (at + hue / 30) % 12;
      const chroma = 0.65 * Math.min(light, 1 - light);
      return Math.round(255 * (light - chroma * Math.max(-1, Math.min(turn - 3, 9 - turn, 1))));
    };
    return [0, 8, 4].map(part);
  }

  // The patches of one layer at one time: each its image, place, expert and share.
  function patchesOf(map) {
    if (map.patches) return map;
    const raw = bytes(map.experts);
    const experts = map.number > 127 ? new Int16Array(raw.buffer) : new Int8Array(raw.buffer);
    const shares = bytes(map.shares);
    const size = map.rows * map.columns;
    map.patches = Array.from(experts, (expert, index) => ({
      image: Math.floor(index / size),
      row: Math.floor((index % size) / map.columns),
      column: index % map.columns,
      expert,
      share: shares[index] / 255,
    }));
    const seen = map.patches.filter((patch) => patch.expert >= 0).map((patch) => patch.share);
    map.low = seen.reduce((a, b) => Math.min(a, b), 1);
    map.high = seen.reduce((a, b) => Math.max(a, b), 0);
    return map;
  }

  function imageOf(sample, index) {
    sample.bytes ??= bytes(sample.pixels);
    const size = sample.width * sample.height;
    const start = index * sample.channels * size;
    return canvasOf(sample.width, sample.height, (context) => {
      const pixels = context.createImageData(sample.width, sample.height);
      for (let at = 0; at < size; at += 1) {
        for (let part = 0; part < 3; part += 1) {
          const channel = sample.channels < 3 ? 0 : part;
          pixels.data[4 * at + part] = sample.bytes[start + channel * size + at];
        }
        pixels.data[4 * at + 3] = 255;
      }
      context.putImageData(pixels, 0, 0);
    });
  }

  class Pane {
    constructor(root, first) {
      this.root = root;
      this.routers = root.querySelector("select");
      data.routers.forEach((router, index) => this.routers.add(new Option(router.name, index)));
      this.routers.value = Math.min(first, data.routers.length - 1);
      this.expert = null;
    }

    get router() {
      return data.routers[this.routers.value];
    }

    get sample() {
      return data.samples[this.router.sample];
    }

    get layer() {
      return this.router.layers.find((each) => each.layer === Number(layers.value));
    }

    get map() {
      const maps = this.layer?.maps ?? [];
      return times.value === "end" ? maps.at(-1) : maps[Math.min(times.value, maps.length - 1)];
    }

    find(part) {
      return this.root.querySelector(part);
    }

    // Shows the images that the controls choose, and the experts of the layer.
    show() {
      const { sample, map } = this;
      this.expert = null;
      this.shown = [];
      for (const part of [".experts", ".traced"]) this.find(part).replaceChildren();
      if (map) patchesOf(map);
      this.find(".note").textContent = map ? this.about(map) : "The tokens of this layer are no patches.";
      for (const [label, name] of map ? Object.entries(sample.classes) : []) {
        if (classes.value && classes.value !== name) continue;
        const figure = element("figure");
        const row = element("div", "", "images");
        figure.append(element("figcaption", name), row);
        figure.firstChild.title = name;
        sample.labels.forEach((own, image) => own === Number(label) && row.append(this.image(image, name)));
        this.find(".traced").append(figure);
      }
      if (map) this.find(".experts").append(...this.legend(map));
      this.choose(null);
    }

    about(map) {
      const when = map.step === null ? "end of training" : `step ${map.step}`;
      const shares = `shares of ${percent(map.low)} to ${percent(map.high)}`;
      return `Seed ${this.router.seed}, ${when}. Opacity: ${shares}.`;
    }

    image(image, name) {
      const frame = element("div", "", "image");
      const { map } = this;
      const patches = map.patches.filter((patch) => patch.image === image);
      const overlay = canvasOf(map.columns, map.rows, () => {});
      overlay.className = "patches";
      overlay.setAttribute("role", "img");
      overlay.setAttribute("aria-label", `${name}, image ${image + 1} of the sample`);
      const picture = imageOf(this.sample, image);
      frame.append(picture, overlay);
      frame.style.aspectRatio = `${picture.width} / ${picture.height}`;
      const under = (event) => {
        const box = overlay.getBoundingClientRect();
        const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
        const inside = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
        return patches[inside(y, map.rows) * map.columns + inside(x, map.columns)];
      };
      overlay.addEventListener("mousemove", (event) => {
        overlay.title = this.describe(under(event), name);
      });
      overlay.addEventListener("click", (event) => this.choose(under(event).expert));
      this.shown.push({ frame, picture, overlay, patches, name });
      return frame;
    }

    describe(patch, name) {
      const place = `${name}, row ${patch.row + 1}, column ${patch.column + 1}`;
      return patch.expert < 0 ? `${place}: no expert` : `${place}: expert ${patch.expert}, ${percent(patch.share)}`;
    }

    legend(map) {
      const patches = this.shown.flatMap((each) => each.patches);
      const counts = new Map();
      for (const { expert } of patches) counts.set(expert, (counts.get(expert) ?? 0) + 1);
      const experts = [...Array(map.number).keys()].concat(counts.has(-1) ? [-1] : []);
      return experts.map((expert) => {
        const button = element("button");
        const swatch = element("i", "", expert < 0 ? "swatch none" : "swatch");
        if (expert >= 0) swatch.style.setProperty("--colour", `rgb(${colourOf(expert, map.number)})`);
        const share = percent((counts.get(expert) ?? 0) / patches.length);
        button.type = "button";
        button.value = expert;
        button.title = expert < 0 ? "Patches without an expert" : `Patches that expert ${expert} has the largest share of`;
        button.append(swatch, expert < 0 ? "none" : String(expert), element("span", share, "share"));
        button.addEventListener("click", () => this.choose(expert));
        return button;
      });
    }

    // Highlights an expert's patches and lists what it takes; the same expert again, or null: all.
    choose(expert) {
      this.expert = expert === this.expert ? null : expert;
      for (const button of this.root.querySelectorAll(".experts button")) {
        button.setAttribute("aria-pressed", String(Number(button.value) === this.expert));
      }
      this.paint();
      this.find(".chosen-expert").replaceChildren(...this.details());
    }

    paint() {
      for (const { frame, overlay, patches } of this.shown) {
        const { low, high, number } = this.map;
        const context = overlay.getContext("2d");
        const pixels = context.createImageData(overlay.width, overlay.height);
        const own = patches.filter(({ expert }) => this.expert === null || expert === this.expert);
        patches.forEach(({ expert, share }, at) => {
          if (expert < 0) return;
          const strength = high > low ? (share - low) / (high - low) : 1;
          const opacity = FAINTEST + strength * (STRONGEST - FAINTEST);
          const shown = this.expert === null || expert === this.expert;
          pixels.data.set([...colourOf(expert, number), shown ? opacity : FADED], 4 * at);
        });
        context.putImageData(pixels, 0, 0);
        frame.classList.toggle("without", own.length === 0);
        overlay.hidden = bare.checked;
      }
    }

    details() {
      if (this.expert === null || !this.map) return [element("p", "Choose an expert, or a patch, to see what it takes.")];
      const own = this.shown.flatMap((each) => each.patches
        .filter((patch) => patch.expert === this.expert)
        .sort((a, b) => b.share - a.share)
        .map((patch, rank) => ({ ...each, patch, rank })));
      if (this.expert < 0) return [element("p", `${own.length} of these patches got nothing from any expert.`)];
      const top = this.map.classes[this.expert];
      const names = top.map(([label, part]) => `${this.sample.classes[label]} ${part} %`).join(", ");
      const rows = [
        element("p", `Expert ${this.expert} has the largest share of ${own.length} of these patches.`),
        element("p", names ? `Its weight in the whole sample goes to ${names}${top.length < 4 ? "" : " …"}` : "It takes no patch of the sample."),
      ];
      // Of equal shares, patches of different images first.
      own.sort((a, b) => b.patch.share - a.patch.share || a.rank - b.rank);
      const crops = element("div");
      crops.append(...own.slice(0, TOP_PATCHES).map((each) => this.crop(each)));
      return [...rows, crops];
    }

    crop({ picture, patch, name }) {
      const [width, height] = [picture.width / this.map.columns, picture.height / this.map.rows];
      const crop = canvasOf(Math.ceil(width), Math.ceil(height), (context) => {
        const from = [patch.column * width, patch.row * height, width, height];
        context.drawImage(picture, ...from, 0, 0, Math.ceil(width), Math.ceil(height));
      });
      crop.title = this.describe(patch, name);
      return crop;
    }
  }

  const panes = [...section.querySelectorAll(".pane")].map((root, index) => new Pane(root, index));

  // Offers what the two routers have; what was chosen before stays where it is still there.
  function offer(select, options) {
    const before = select.value;
    select.replaceChildren(...options.map(([label, value]) => new Option(label, value)));
    if (options.some(([, value]) => String(value) === before)) select.value = before;
    select.parentElement.hidden = options.length < 2;
  }

  function update() {
    const own = panes.flatMap((pane) => pane.router.layers);
    offer(layers, [...new Set(own.map((each) => each.layer))].sort((a, b) => a - b).map((layer) => [layer, layer]));
    const most = Math.max(...own.map((each) => each.maps.length));
    const steps = [...Array(most - 1).keys()].map((place) => [place ? `snapshot ${place}` : "start", place]);
    offer(times, [["end of training", "end"], ...steps]);
    const names = new Set(panes.flatMap((pane) => Object.values(pane.sample.classes)));
    offer(classes, [["all", ""], ...[...names].map((name) => [name, name])]);
    for (const pane of panes) pane.show();
  }

  section.addEventListener("change", (event) => {
    if (event.target === bare) panes.forEach((pane) => pane.paint());
    else update();
  });
  update();
})();
