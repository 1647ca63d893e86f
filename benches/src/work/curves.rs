//! Growth curves as SVG, drawn from rows that were printed with `--json`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use crate::nodes::Outcome;
use crate::options::Options;

/// Size of a drawing and of its margins, in pixels.
const SIZE: (f64, f64) = (720.0, 420.0);
const MARGIN: (f64, f64) = (80.0, 50.0);
const COLOURS: [&str; 8] =
    ["#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d35400", "#16808a", "#7f6000", "#555555"];

/// Points by series.
type Curves = BTreeMap<String, Vec<(f64, f64)>>;

struct Drawing {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    curves: Curves,
}

pub(crate) fn run(options: &Options) -> Outcome<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('{')).collect();
    let mut drawings = [
        drawing("catchup-speed.svg", "Catch-up", "entries", "entries per CPU second of both sides"),
        drawing("catchup-memory.svg", "Memory beyond what is stored", "entries", "MB"),
        drawing(
            "difference-bytes.svg",
            "Small differences in 10,000 logs",
            "changed logs + 1",
            "bytes besides the entries",
        ),
        drawing("late.svg", "A late entry", "entries that it is late by", "CPU microseconds"),
        drawing(
            "streams.svg",
            "First contact with streams of one entry",
            "streams",
            "streams per CPU second of both sides",
        ),
    ];
    for row in rows {
        let (port, store) = (field(row, "port"), field(row, "store"));
        let place = format!("{} port, {} store", port.unwrap_or_default(), store.unwrap_or_default());
        let number = |name| field(row, name).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        match field(row, "work") {
            Some("catchup") => {
                drawings[0].add(&place, number("entries"), number("entries_per_cpu_second"));
                drawings[1].add(&place, number("entries"), number("peak_mb"));
            }
            Some("difference") => {
                let met = if field(row, "first_contact") == Some("true") { "first contact" } else { "known" };
                let name = format!(
                    "{}, {met}, {} port",
                    field(row, "pattern").unwrap_or_default(),
                    port.unwrap_or_default()
                );
                drawings[2].add(&name, number("changed") + 1.0, number("other_bytes"));
                drawings[2].add(
                    "allowed: 256 + 96 d",
                    number("changed") + 1.0,
                    256.0 + 96.0 * number("changed"),
                );
            }
            Some("late") if field(row, "lateness").is_some() => {
                drawings[3].add(
                    &format!("{} entries", number("entries")),
                    number("lateness"),
                    number("median_us"),
                );
            }
            Some("streams") if field(row, "what") == Some("first_contact") => {
                drawings[4].add(&place, number("streams"), number("entries_per_cpu_second"));
            }
            _ => {}
        }
    }
    for drawing in drawings.iter().filter(|drawing| !drawing.curves.is_empty()) {
        std::fs::write(Path::new(&options.out).join(drawing.file), drawing.svg())?;
    }
    Ok(())
}

fn drawing(file: &'static str, title: &'static str, x: &'static str, y: &'static str) -> Drawing {
    Drawing { file, title, x, y, curves: Curves::new() }
}

/// The value of a field of a row that this program printed.
fn field<'a>(row: &'a str, name: &str) -> Option<&'a str> {
    let key = format!("\"{name}\":");
    let value = &row[row.find(&key)? + key.len()..];
    match value.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => value.split([',', '}']).next(),
    }
}

impl Drawing {
    /// Points at the same place are averaged when drawn.
    fn add(&mut self, series: &str, x: f64, y: f64) {
        if x > 0.0 && y > 0.0 {
            self.curves.entry(series.to_owned()).or_default().push((x, y));
        }
    }

    /// Both axes logarithmic.
    fn svg(&self) -> String {
        let all = || self.curves.values().flatten();
        let bounds = |pick: fn(&(f64, f64)) -> f64| {
            let logs = all().map(|point| pick(point).log10());
            let (low, high) =
                logs.fold((f64::MAX, f64::MIN), |(low, high), log| (low.min(log), high.max(log)));
            (low.floor(), if high.ceil() > low.floor() { high.ceil() } else { low.floor() + 1.0 })
        };
        let ((left, right), (bottom, top)) = (bounds(|point| point.0), bounds(|point| point.1));
        let (width, height) = (SIZE.0 - 2.0 * MARGIN.0 - 120.0, SIZE.1 - 2.0 * MARGIN.1);
        let place = |x: f64, y: f64| {
            let across = MARGIN.0 + (x.log10() - left) / (right - left) * width;
            (across, MARGIN.1 + (top - y.log10()) / (top - bottom) * height)
        };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{}\" y=\"24\" font-size=\"15\">{}</text>\n",
            SIZE.0, SIZE.1, MARGIN.0, self.title
        );
        let mut put =
            |text: std::fmt::Arguments<'_>| svg.write_fmt(text).expect("writing to a string never fails");
        for decade in left as i32..=right as i32 {
            let (x, _) = place(10_f64.powi(decade), 10_f64.powf(bottom));
            put(format_args!(
                "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#dddddd\"/>\n<text x=\"{x:.1}\" y=\"{}\" \
                 text-anchor=\"middle\">{}</text>\n",
                MARGIN.1,
                MARGIN.1 + height,
                MARGIN.1 + height + 16.0,
                label(decade)
            ));
        }
        for decade in bottom as i32..=top as i32 {
            let (_, y) = place(10_f64.powf(left), 10_f64.powi(decade));
            put(format_args!(
                "<line x1=\"{}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\n<text x=\"{}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>\n",
                MARGIN.0,
                MARGIN.0 + width,
                MARGIN.0 - 6.0,
                y + 4.0,
                label(decade)
            ));
        }
        put(format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n<text x=\"{}\" y=\"42\">{}</text>\n",
            MARGIN.0 + width / 2.0,
            MARGIN.1 + height + 36.0,
            self.x,
            MARGIN.0,
            self.y
        ));
        for (at, (name, points)) in self.curves.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let mut places: BTreeMap<u64, (f64, f64, f64)> = BTreeMap::new();
            for (x, y) in points {
                let entry = places.entry(x.to_bits()).or_insert((*x, 0.0, 0.0));
                (entry.1, entry.2) = (entry.1 + y, entry.2 + 1.0);
            }
            let places: Vec<(f64, f64)> =
                places.values().map(|(x, sum, count)| place(*x, sum / count)).collect();
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            put(format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
                path.join(" ")
            ));
            for (x, y) in &places {
                put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>\n"));
            }
            let y = MARGIN.1 + 16.0 * at as f64;
            put(format_args!(
                "<text x=\"{}\" y=\"{y:.1}\" fill=\"{colour}\" font-size=\"11\">{name}</text>\n",
                MARGIN.0 + width + 8.0
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn label(decade: i32) -> String {
    match decade {
        0..=2 => format!("{}", 10_i32.pow(decade.unsigned_abs())),
        3..=5 => format!("{}k", 10_i32.pow(decade.unsigned_abs() - 3)),
        6..=8 => format!("{}M", 10_i32.pow(decade.unsigned_abs() - 6)),
        _ => format!("1e{decade}"),
    }
}
