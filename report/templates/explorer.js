// The routing explorer: where each patch of some test images went, for two routers side by side.
(() => {
  const section = document.getElementById("explorer");
  const data = dataOf("explorer-data");
  const [layers, times, classes, bare] = ["layer", "time", "class", "bare"].map((name) =>
    $(`.explorer-controls [name=${name}]`, section));
  const [WEAKEST, STRONGEST, FADED] = [110, 205, 12]; // opacity of a patch, of 255
  const [TOP_PATCHES, MOST_LISTED] = [8, 16];

  const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
  const ofByte = (share) => percent(share / 255);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  const paragraph = (text) => element("p", {}, text);

  // Returns a map with its patches, by image and row, decoded when it is first shown.
  function decoded(map) {
    if (map.patches) return map;
    const raw = bytes(map.experts);
    const experts = map.number > 127 ? new Int16Array(raw.buffer) : new Int8Array(raw.buffer);
    const shares = bytes(map.shares);
    const size = map.rows * map.columns;
    map.patches = Array.from(experts, (expert, at) => ({
      expert, share: shares[at], image: Math.floor(at / size),
      row: Math.floor((at % size) / map.columns), column: at % map.columns,
    }));
    return map;
  }

  class Pane {
    constructor(root, router) {
      this.find = (part) => $(part, root);
      this.select = this.find("select");
      this.select.append(...data.routers.map(({ name }, index) => new Option(name, index)));
      this.select.value = router;
    }

    get router() { return data.routers[this.select.value]; }
    get sample() { return data.samples[this.router.sample]; }
    get colours() { return data.colours[this.map.number]; }
    get map() {
      const own = this.router.layers.find(({ layer }) => layer === Number(layers.value));
      const last = own && own.maps.length - 1;
      const place = times.value === "end" ? last : Math.min(times.value, last);
      return own && decoded(own.maps[place]);
    }

    // Shows the images of the chosen classes, and the experts of the chosen layer.
    show() {
      const { sample, map } = this;
      const chosen = Object.entries(map ? sample.classes : {}).filter(
        ([, name]) => !classes.value || classes.value === name);
      this.shown = [];
      this.find(".traced").replaceChildren(...chosen.map(([label, name]) => {
        const images = sample.labels.flatMap((own, at) => (own === Number(label) ? [at] : []));
        const pictures = images.map((image) => this.picture(image, name));
        const heading = element("figcaption", { title: name }, name);
        return element("figure", {}, heading, element("div", { className: "images" }, ...pictures));
      }));
      this.find(".note").textContent = this.about();
      this.find(".experts").replaceChildren(...(map ? this.legend() : []));
      this.choose(null);
    }

    about() {
      if (!this.map) return "It has no such layer, or one whose tokens are not patches.";
      const { step, low, high } = this.map;
      const when = step === null ? "end of training" : `step ${step}`;
      const opacity = low < high ? `Opacity: shares from ${ofByte(low)} to` : "All shares are";
      return `Seed ${this.router.seed}, ${when}. ${opacity} ${ofByte(high)}.`;
    }

    // One image overlaid with its patches: a canvas with one pixel per patch.
    picture(image, name) {
      const { sample, map } = this;
      const source = `data:image/png;base64,${sample.images[image]}`;
      const patches = map.patches.filter((patch) => patch.image === image);
      const below = element("img", { src: source, alt: `${name}, image ${image + 1} of the sample` });
      const size = { width: map.columns, height: map.rows };
      const overlay = element("canvas", { className: "patches", ...size });
      const under = ({ offsetX: x, offsetY: y }) => {
        const place = (part, count) => Math.min(count - 1, Math.max(0, Math.floor(part * count)));
        const row = place(y / overlay.clientHeight, map.rows);
        return patches[row * map.columns + place(x / overlay.clientWidth, map.columns)];
      };
      overlay.addEventListener("mousemove", (event) => {
        overlay.title = this.describe(under(event), name);
      });
      overlay.addEventListener("click", (event) => {
        this.choose(under(event).expert, this.describe(under(event), name));
      });
      const frame = element("div", { className: "image" }, below, overlay);
      frame.style.aspectRatio = `${sample.width} / ${sample.height}`;
      this.shown.push({ frame, overlay, patches, source, name });
      return frame;
    }

    describe({ row, column, expert, share }, name) {
      const what = expert < 0 ? "no expert" : `expert ${expert}, ${ofByte(share)}`;
      return `${name}, row ${row + 1}, column ${column + 1}: ${what}`;
    }

    legend() {
      const patches = this.shown.flatMap((each) => each.patches);
      const counts = new Map();
      for (const { expert } of patches) counts.set(expert, (counts.get(expert) ?? 0) + 1);
      const experts = [...Array(this.map.number).keys(), ...(counts.has(-1) ? [-1] : [])];
      return experts.map((expert) => {
        const none = expert < 0;
        const swatch = none
          ? element("i", { className: "swatch none" }) : square(`rgb(${this.colours[expert]})`);
        const title = none
          ? "Patches without an expert" : `Patches of which expert ${expert} has the largest share`;
        const share = percent((counts.get(expert) ?? 0) / patches.length);
        const button = element("button", { type: "button", value: expert, title },
          swatch, none ? "none" : expert, element("span", { className: "share" }, share));
        button.addEventListener("click", () => this.choose(expert));
        return button;
      });
    }

    // Highlights an expert's patches and lists what it takes; choosing it again shows all patches.
    choose(expert, where = "") {
      this.expert = expert === this.expert ? null : expert;
      for (const button of this.find(".experts").children) {
        button.setAttribute("aria-pressed", Number(button.value) === this.expert);
      }
      this.paint();
      const details = () => (this.expert === null ? this.overview() : this.details(where));
      this.find(".chosen-expert").replaceChildren(...(this.map ? details() : []));
    }

    paint() {
      for (const { frame, overlay, patches } of this.shown) {
        const { colours, map: { low, high, rows, columns } } = this;
        const pixels = new ImageData(columns, rows);
        const isChosen = ({ expert }) => this.expert === null || expert === this.expert;
        patches.forEach((patch, at) => {
          if (patch.expert < 0) return;
          const strength = high > low ? (patch.share - low) / (high - low) : 1;
          const opacity = WEAKEST + strength * (STRONGEST - WEAKEST);
          const shown = isChosen(patch) ? opacity : FADED;
          pixels.data.set([...colours[patch.expert], shown], 4 * at);
        });
        overlay.getContext("2d").putImageData(pixels, 0, 0);
        overlay.style.visibility = bare.checked ? "hidden" : "";
        frame.classList.toggle("without", !bare.checked && !patches.some(isChosen));
      }
    }

    inWords([label, share]) { return `${this.sample.classes[label]}\u00a0(${percent(share)})`; }

    overview() {
      const most = this.map.classes.flatMap(([first], expert) =>
        (first ? [`${expert}\u00a0→\u00a0${this.inWords(first)}`] : []));
      const listed = most.slice(0, MOST_LISTED).join(", ") + (most.length > MOST_LISTED ? ", …" : "");
      const heading = "The class that each expert takes most, with its part of the expert’s weight";
      return [
        paragraph("Choose an expert, or a patch, to see what it takes."),
        paragraph(`${heading}: ${listed}`),
      ];
    }

    details(where) {
      const own = this.shown.flatMap((each) => each.patches
        .filter(({ expert }) => expert === this.expert)
        .sort((one, other) => other.share - one.share)
        .map((patch, rank) => ({ ...each, patch, rank })));
      const counted = `${own.length} of these patches`;
      const lines = where ? [paragraph(`${where}.`)] : [];
      if (this.expert < 0) return [...lines, paragraph(`${counted} got nothing from any expert.`)];
      const most = this.map.classes[this.expert].map((each) => this.inWords(each)).join(", ");
      const weight = most ? ` Of its weight in the whole sample: ${most}.` : "";
      lines.push(paragraph(`Expert ${this.expert} has the largest share of ${counted}.${weight}`));
      // Among equal shares, patches of different images come first.
      own.sort((one, other) => other.patch.share - one.patch.share || one.rank - other.rank);
      const crops = own.slice(0, TOP_PATCHES).map((each) => this.crop(each));
      return [...lines, element("div", { className: "crops" }, ...crops)];
    }

    crop({ patch, source, name }) {
      const { rows, columns } = this.map;
      const crop = element("i", { className: "crop", title: this.describe(patch, name) });
      const part = (place, count) => `${(100 * place) / Math.max(1, count - 1)}%`;
      const position = `${part(patch.column, columns)} ${part(patch.row, rows)}`;
      crop.style.background = `url(${source}) ${position} / ${100 * columns}% ${100 * rows}%`;
      return crop;
    }
  }

  const roots = [...section.querySelectorAll(".pane")];
  const panes = roots.map((root, side) => new Pane(root, data.first[side]));

  // Offers [label, value] options; the previous choice is kept if it is still among them.
  function offer(select, options) {
    const before = select.value;
    select.replaceChildren(...options.map(([label, value]) => new Option(label, value)));
    if (options.some(([, value]) => String(value) === before)) select.value = before;
    select.parentElement.hidden = options.length < 2;
  }

  // Offers what either router has, and shows both.
  function update() {
    const own = panes.flatMap((pane) => pane.router.layers);
    const numbers = [...new Set(own.map(({ layer }) => layer))].sort((one, other) => one - other);
    const before = [...Array(Math.max(...own.map(({ maps }) => maps.length)) - 1).keys()];
    const names = new Set(panes.flatMap((pane) => Object.values(pane.sample.classes)));
    const earlier = before.map((place) => [place ? `snapshot ${place}` : "start", place]);
    offer(layers, numbers.map((number) => [number, number]));
    offer(times, [["end of training", "end"], ...earlier]);
    offer(classes, [["all", ""], ...[...names].map((name) => [name, name])]);
    for (const pane of panes) pane.show();
  }

  section.addEventListener("change", ({ target }) => {
    if (target === bare) panes.forEach((pane) => pane.paint());
    else update();
  });
  update();
})();
