// The charts of the page, drawn by Vega-Lite from the data that `report/board.py` makes.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Shared by all charts: each router's colour, mark and line, and the emphasis of chosen ones.
function systems(data) {
  const domain = data.routers.map((each) => each.name);
  const of = (range) => ({ domain, range: data.routers.map((each) => each[range]) });
  const chosen = "length(chosen) == 0 || indexof(chosen, datum.router) >= 0";
  return {
    color: { field: "router", type: "nominal", scale: of("colour"), legend: null },
    shape: { field: "router", type: "nominal", scale: of("shape"), legend: null },
    strokeDash: { field: "router", type: "nominal", scale: of("dash"), legend: null },
    opacity: { condition: { test: chosen, value: 1 }, value: 0.12 },
  };
}

function theme() {
  const [ink, faint, rule] = [css("--ink"), css("--faint"), css("--rule")];
  const font = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif";
  const text = { labelColor: ink, titleColor: ink, labelFont: font, titleFont: font };
  const sizes = { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  return {
    background: "transparent",
    view: { stroke: null },
    axis: { ...text, ...sizes, gridColor: rule, domainColor: faint, tickColor: faint },
    header: { ...text, ...sizes },
    legend: { ...text, ...sizes },
    text: { font, color: ink },
  };
}

const GIVEN = { params: [{ name: "chosen", value: [] }], width: "container", autosize: { type: "fit-x", contains: "padding" } };
// With one seed the interval is a point, since an empty layer would have no axis.
const end = (of) => ({ calculate: `isValid(datum.${of}) ? datum.${of} : datum.top1`, as: `${of}_end` });
const shown = (condition) => [{ filter: { field: "condition", equal: condition } }];

// The axis holds every mean with some margin; a wider interval is cut.
function accuracies(data, condition) {
  const means = data.runs.filter((each) => each.condition === condition).map((each) => each.top1);
  const [least, most] = [Math.min(...means), Math.max(...means)];
  const room = Math.max((most - least) / 3, 1);
  return { domain: [Math.max(least - room, 0), Math.min(most + room, 100)], nice: true };
}

const percent = (field, title) => ({ field, type: "quantitative", title, scale: { zero: false } });
const INTERVAL = [
  { field: "router", title: "router" },
  { field: "top1", title: "top-1 (%)", format: ".1f" },
  { field: "low", title: "95 % interval from", format: ".1f" },
  { field: "high", title: "to", format: ".1f" },
  { field: "n", title: "seeds" },
];

const CHARTS = {
  ranking: (data, { condition }) => {
    const { color, shape, opacity } = systems(data);
    const y = { field: "router", type: "nominal", title: null, axis: { labelLimit: innerWidth < 600 ? 150 : 250, grid: true, ticks: false },
      sort: { field: "top1", op: "max", order: "descending" } };
    return {
      ...GIVEN, data: { values: data.runs }, transform: [...shown(condition), end("low"), end("high")],
      height: 22 * data.runs.filter((each) => each.condition === condition).length,
      encoding: { y, color, opacity, tooltip: INTERVAL },
      layer: [
        { mark: { type: "rule", strokeWidth: 2, clip: true },
          encoding: { x: { ...percent("low_end", "top-1 on the test split (%)"), axis: { orient: "top", tickCount: 6 }, scale: accuracies(data, condition) }, x2: { field: "high_end" } } },
        { mark: { type: "point", filled: true, size: 80, opacity: 1 }, encoding: { x: percent("top1"), shape } },
      ],
    };
  },
  cost: (data, { condition, cost, label }) => {
    const { color, shape, opacity } = systems(data);
    const x = { field: cost, type: "quantitative", title: label, scale: { zero: false, nice: true }, axis: { format: "~s", tickCount: 5 } };
    const transform = [...shown(condition), { filter: `isValid(datum.${cost})` }, end("low"), end("high")];
    return {
      ...GIVEN, data: { values: data.runs }, transform, height: 300,
      encoding: { x, color, opacity, tooltip: [...INTERVAL, { field: cost, title: label, format: ".4~s" }] },
      layer: [
        { mark: { type: "rule", clip: true },
          encoding: { y: { ...percent("low_end", "top-1 (%)"), scale: accuracies(data, condition) }, y2: { field: "high_end" } } },
        { mark: { type: "point", filled: true, size: 80 }, encoding: { y: percent("top1"), shape } },
      ],
    };
  },
  training: (data, { condition }) => {
    const { color, strokeDash, opacity } = systems(data);
    const x = { field: "flops", type: "quantitative", title: "training FLOPs", axis: { format: "~s", tickCount: 5 } };
    const tooltip = [{ field: "router" }, { field: "mean", title: "validation top-1 (%)", format: ".1f" }, { field: "flops", format: ".3~s" }];
    return {
      ...GIVEN, data: { values: data.curves }, transform: shown(condition), height: 300,
      mark: { type: "line", point: { size: 20 }, strokeWidth: 1.8 },
      encoding: { x, y: percent("mean", "validation top-1 (%)"), color, strokeDash, opacity, tooltip },
    };
  },
  loads: (data, { routers, share, width, columns }) => ({
    data: { values: data.loads.filter((each) => routers.includes(each.router) && each.share === share) },
    transform: [
      { window: [{ op: "row_number", as: "run" }] },
      { flatten: ["loads"] },
      { window: [{ op: "row_number", as: "rank" }], groupby: ["run"] },
    ],
    facet: { field: "router", type: "nominal", title: null, sort: routers },
    columns,
    spec: {
      width, height: { step: 26 }, mark: "rect",
      encoding: {
        x: { field: "rank", type: "ordinal", title: "expert, by load", axis: { labelAngle: 0, labelOverlap: true } },
        y: { field: "layer", type: "ordinal", title: "MoE layer" },
        color: { field: "loads", type: "quantitative", title: "load / mean",
          scale: { scheme: "purpleorange", domainMid: 1, domainMin: 0, reverse: true } },
        tooltip: [{ field: "router" }, { field: "layer" }, { field: "rank" }, { field: "loads", title: "load / mean", format: ".2f" }],
      },
    },
  }),
  trials: (data, { trials }) => ({
    data: { values: trials.flatMap((each) => each.curve.map(([step, top1]) => ({ step, top1, seed: each.seed }))) },
    width: "container", height: 160, autosize: { type: "fit-x", contains: "padding" },
    mark: { type: "line", point: true },
    encoding: {
      x: { field: "step", type: "quantitative", title: "step", axis: { tickCount: 5 } },
      y: percent("top1", "validation top-1 (%)"),
      color: { field: "seed", type: "nominal" },
      tooltip: [{ field: "seed" }, { field: "step" }, { field: "top1", format: ".1f" }],
    },
  }),
};

// Draws a chart into a place, replacing the one that is there.
async function draw(place, name, data, options) {
  const spec = { config: theme(), ...CHARTS[name](data, options) };
  const embedded = await vegaEmbed(place, spec, { actions: false, renderer: "svg", ast: false });
  return embedded.view;
}
