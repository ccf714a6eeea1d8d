//! `--plot`: throughput against what was varied, as an SVG that needs nothing else.

use std::fmt::Write;

/// What is varied between the points of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Depth,
    Sequences,
    Parameters,
    Length,
}

impl Axis {
    fn label(self) -> &'static str {
        match self {
            Self::Depth => "tokens in the context before",
            Self::Sequences => "sequences at once",
            Self::Parameters => "parameters, millions",
            Self::Length => "tokens",
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub model: String,
    /// Millions.
    pub parameters: f64,
    pub prompt: u32,
    pub gen_tokens: u32,
    pub depth: u32,
    pub sequences: u32,
    /// Tokens per second, and their standard deviation.
    pub rate: f64,
    pub deviation: f64,
}

impl Point {
    /// The panel that it belongs to.
    fn panel(&self) -> &'static str {
        match (self.prompt, self.gen_tokens) {
            (_, 0) => "prompt",
            (0, _) => "continuation",
            _ => "prompt and continuation",
        }
    }

    fn x(&self, axis: Axis) -> f64 {
        match axis {
            Axis::Depth => self.depth.into(),
            Axis::Sequences => self.sequences.into(),
            Axis::Parameters => self.parameters,
            Axis::Length => (self.prompt + self.gen_tokens).into(),
        }
    }

    /// The line that it belongs to: all that the axis does not say, nor the caption.
    fn line(&self, axis: Axis, several_models: bool) -> String {
        let mut words = Vec::new();
        if several_models && axis != Axis::Parameters {
            words.push(self.model.clone());
        }
        if axis != Axis::Length {
            if self.prompt > 0 {
                words.push(format!("pp{}", self.prompt));
            }
            if self.gen_tokens > 0 {
                words.push(format!("tg{}", self.gen_tokens));
            }
        }
        if axis != Axis::Depth && self.depth > 0 {
            words.push(format!("after {}", self.depth));
        }
        if axis != Axis::Sequences && self.sequences > 1 {
            words.push(format!("{} sequences", self.sequences));
        }
        words.join(" ")
    }
}

/// The first that is varied.
fn axis(points: &[Point]) -> Axis {
    let varied = |axis: &Axis| {
        points
            .iter()
            .any(|point| point.x(*axis) != points[0].x(*axis))
    };
    [Axis::Depth, Axis::Sequences, Axis::Parameters]
        .into_iter()
        .find(varied)
        .unwrap_or(Axis::Length)
}

const PANEL_WIDTH: f64 = 420.0;
const HEIGHT: f64 = 332.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const PLOT_HEIGHT: f64 = 210.0;
const LEGEND_LINE: f64 = 16.0;
const COLOURS: [&str; 6] = [
    "#1f6feb", "#d1571b", "#2e8b57", "#8250df", "#b8860b", "#57606a",
];

/// A panel for prompts, for continuations, and for both together, as far as there are any. `caption` says what ran where.
pub fn svg(points: &[Point], caption: &[String]) -> String {
    let mut panels: Vec<(&str, Vec<&Point>)> = Vec::new();
    for point in points {
        match panels.iter_mut().find(|(name, _)| *name == point.panel()) {
            Some((_, points)) => points.push(point),
            None => panels.push((point.panel(), vec![point])),
        }
    }
    let axis = axis(points);
    let most_lines = panels.iter().map(|(_, points)| lines(points, axis).len());
    let legend = most_lines.max().unwrap_or(0) as f64 * LEGEND_LINE;
    let width = PANEL_WIDTH * panels.len().max(1) as f64;
    let height = HEIGHT + legend + LEGEND_LINE * caption.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#24292f\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (i, (name, points)) in panels.iter().enumerate() {
        let _ = writeln!(
            text,
            "<g transform=\"translate({} 0)\">",
            PANEL_WIDTH * i as f64
        );
        panel(&mut text, name, points, axis);
        text.push_str("</g>\n");
    }
    for (i, line) in caption.iter().enumerate() {
        let y = height - LEGEND_LINE * (caption.len() - i) as f64;
        let _ = writeln!(
            text,
            "<text x=\"16\" y=\"{y}\" fill=\"#57606a\">{}</text>",
            escaped(line)
        );
    }
    text.push_str("</svg>\n");
    text
}

/// Points of the same line together, each line in the order of x.
fn lines<'p>(points: &[&'p Point], axis: Axis) -> Vec<(String, Vec<&'p Point>)> {
    let several_models = points.iter().any(|point| point.model != points[0].model);
    let mut lines: Vec<(String, Vec<&Point>)> = Vec::new();
    for &point in points {
        let name = point.line(axis, several_models);
        match lines.iter_mut().find(|(other, _)| *other == name) {
            Some((_, points)) => points.push(point),
            None => lines.push((name, vec![point])),
        }
    }
    for (_, points) in &mut lines {
        points.sort_by(|a, b| a.x(axis).total_cmp(&b.x(axis)));
    }
    lines
}

fn panel(text: &mut String, name: &str, points: &[&Point], axis: Axis) {
    let (right, bottom) = (PANEL_WIDTH - RIGHT, TOP + PLOT_HEIGHT);
    let mut ticks: Vec<f64> = points.iter().map(|point| point.x(axis)).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    // Lengths double from point to point; where 0 is among them, the logarithm starts below the next one.
    let smallest = ticks.iter().copied().find(|&x| x > 0.0).unwrap_or(1.0);
    let has_zero = ticks.first() == Some(&0.0);
    let stretch = |x: f64| (x / smallest + f64::from(has_zero)).max(1.0).log2();
    let (low, high) = match (ticks.first(), ticks.last()) {
        (Some(&first), Some(&last)) if last > first => (stretch(first), stretch(last)),
        (Some(&only), _) => (stretch(only) - 1.0, stretch(only) + 1.0),
        _ => (0.0, 1.0),
    };
    let at_x = |x: f64| LEFT + 12.0 + (right - LEFT - 24.0) * (stretch(x) - low) / (high - low);
    let most = points.iter().map(|point| point.rate + point.deviation);
    let step = tick_step(most.fold(0.0, f64::max));
    let most = points.iter().map(|point| point.rate + point.deviation);
    let steps = (most.fold(0.0, f64::max) / step).ceil().max(1.0);
    let at_y = |rate: f64| bottom - PLOT_HEIGHT * rate / (steps * step);
    let _ = writeln!(
        text,
        "<text x=\"{LEFT}\" y=\"28\" font-size=\"14\" font-weight=\"600\">{name}, tokens/s</text>"
    );
    for i in 0..=steps as u32 {
        let rate = f64::from(i) * step;
        let y = at_y(rate);
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#d0d7de\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            short(rate)
        );
    }
    let mut labelled = f64::NEG_INFINITY;
    for &x in &ticks {
        let at = at_x(x);
        let _ = writeln!(
            text,
            "<line x1=\"{at:.1}\" y1=\"{bottom}\" x2=\"{at:.1}\" y2=\"{}\" stroke=\"#57606a\"/>",
            bottom + 5.0
        );
        // Labels that would stand on one another are left out.
        if at - labelled > 34.0 {
            let _ = writeln!(
                text,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 19.0,
                short(x)
            );
            labelled = at;
        }
    }
    let _ = writeln!(
        text,
        "<line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\" stroke=\"#57606a\"/>\
         <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + right) / 2.0,
        bottom + 40.0,
        axis.label()
    );
    for (i, (name, points)) in lines(points, axis).iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let corners: Vec<String> = points
            .iter()
            .map(|point| format!("{:.1},{:.1}", at_x(point.x(axis)), at_y(point.rate)))
            .collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            corners.join(" ")
        );
        for point in points {
            let (x, y) = (at_x(point.x(axis)), at_y(point.rate));
            let _ = writeln!(
                text,
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>\
                 <circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{}: {:.2} ± {:.2} tokens/s</title></circle>",
                at_y(point.rate + point.deviation),
                at_y((point.rate - point.deviation).max(0.0)),
                escaped(&short(point.x(axis))),
                point.rate,
                point.deviation
            );
        }
        if name.is_empty() {
            continue;
        }
        let y = bottom + 62.0 + LEGEND_LINE * i as f64;
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
            y - 4.0,
            LEFT + 18.0,
            y - 4.0,
            LEFT + 24.0,
            escaped(name)
        );
    }
}

/// 1, 2 or 5 times a power of ten, of which about five reach `most`.
fn tick_step(most: f64) -> f64 {
    let rough = (most / 5.0).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(steps[3])
}

/// `1500`, `0.25`, `12k`
fn short(value: f64) -> String {
    if value >= 10_000.0 && value % 1000.0 == 0.0 {
        format!("{}k", value / 1000.0)
    } else if value.fract().abs() < 1e-9 || value >= 1000.0 {
        format!("{value:.0}")
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(prompt: u32, depth: u32, sequences: u32, rate: f64) -> Point {
        Point {
            model: "a <b> w4a8".to_owned(),
            parameters: 15.7,
            prompt,
            gen_tokens: if prompt == 0 { 8 } else { 0 },
            depth,
            sequences,
            rate,
            deviation: 1.0,
        }
    }

    #[test]
    fn what_is_varied_is_the_axis() {
        let by = |points: &[Point]| axis(points);
        assert_eq!(
            by(&[point(8, 0, 1, 1.0), point(16, 0, 1, 1.0)]),
            Axis::Length
        );
        assert_eq!(
            by(&[point(8, 0, 1, 1.0), point(8, 64, 1, 1.0)]),
            Axis::Depth
        );
        assert_eq!(
            by(&[point(0, 0, 1, 1.0), point(0, 0, 8, 1.0)]),
            Axis::Sequences
        );
    }

    #[test]
    fn every_point_is_drawn_and_text_is_escaped() {
        let points = [
            point(8, 0, 1, 100.0),
            point(8, 2048, 1, 80.0),
            point(0, 0, 1, 10.0),
            point(0, 2048, 1, 7.0),
        ];
        let text = svg(&points, &["on <Example> & more".to_owned()]);
        assert_eq!(text.matches("<circle").count(), 4);
        assert_eq!(text.matches("<polyline").count(), 2);
        assert!(text.contains("on &lt;Example&gt; &amp; more"), "{text}");
        assert!(text.contains("tokens in the context before"), "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn a_single_point_is_drawn() {
        let text = svg(&[point(8, 0, 1, 0.0)], &[]);
        assert!(text.contains("<circle") && !text.contains("NaN"), "{text}");
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(tick_step(100.0), 20.0);
        assert_eq!(tick_step(0.7), 0.2);
        assert_eq!(short(12_000.0), "12k");
        assert_eq!(short(0.25), "0.25");
        assert_eq!(short(1234.5), "1234");
    }
}
