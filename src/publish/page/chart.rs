use super::escape;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 190.0;
/// Room for the labels of the axes.
const LEFT: f64 = 40.0;
const BOTTOM: f64 = 32.0;
const MARGIN: f64 = 12.0;
/// Lines of a grid that an axis has at most, zero among them.
const TICKS_MAX: f64 = 6.0;
/// Colours that the style sheet knows.
const COLOURS: usize = 3;

/// Curves over one axis. Both axes begin at zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// What runs to the right.
    pub x_axis: String,
    /// What runs up.
    pub y_axis: String,
    /// Three at most are drawn.
    pub curves: Vec<Curve>,
}

/// A name and points.
pub type Curve = (String, Vec<(f64, f64)>);

impl Chart {
    /// One `<figure>`; nothing where there is no finite point.
    pub(super) fn html(&self) -> String {
        let points = || {
            self.curves
                .iter()
                .flat_map(|(_, points)| points)
                .filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0_f64, f64::max);
        if points().next().is_none() {
            return String::new();
        }
        let frame = Frame {
            xs: Axis::to(most(|point| point.0)),
            ys: Axis::to(most(|point| point.1)),
        };
        let mut drawn = frame.grid();
        for (i, (_, points)) in self.curves.iter().enumerate() {
            drawn += &frame.curve(i % COLOURS, points);
        }
        drawn += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            WIDTH - MARGIN,
            HEIGHT - 4.0,
            escape(&self.x_axis)
        );
        let named = self
            .curves
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| !name.is_empty());
        let key = |(i, (name, _)): (usize, &Curve)| {
            let (colour, name) = (i % COLOURS, escape(name));
            format!("<span class=\"key s{colour}\"></span>{name}")
        };
        let caption: Vec<String> = [named.map(key).collect(), escape(&self.y_axis)]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        format!(
            "<figure><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
            aria-label=\"{}\">\n{drawn}</svg>\
             <figcaption>{}</figcaption></figure>\n",
            escape(&self.title),
            caption.join("; ")
        )
    }
}

/// Where points lie between two axes.
struct Frame {
    xs: Axis,
    ys: Axis,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - MARGIN) * value / self.xs.end
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - BOTTOM - MARGIN) * value.max(0.0) / self.ys.end
    }

    /// The lines of the grid, and the numbers at both axes.
    fn grid(&self) -> String {
        let mut drawn = String::new();
        for tick in self.ys.ticks() {
            let (at, label) = (self.y(tick), self.ys.label(tick));
            drawn += &format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
                WIDTH - MARGIN
            );
            drawn += &format!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
                LEFT - 5.0,
                at + 4.0
            );
        }
        for tick in self.xs.ticks() {
            let (at, label) = (self.x(tick), self.xs.label(tick));
            let anchor = if tick == 0.0 {
                "start"
            } else if at > WIDTH - 2.0 * MARGIN {
                "end"
            } else {
                "middle"
            };
            drawn += &format!(
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>\n",
                HEIGHT - BOTTOM + 14.0
            );
        }
        drawn
    }

    /// One curve; its points as dots where they are few.
    fn curve(&self, colour: usize, points: &[(f64, f64)]) -> String {
        let places: Vec<(f64, f64)> = points
            .iter()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .map(|point| (self.x(point.0), self.y(point.1)))
            .collect();
        let line: Vec<String> = places
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let line = line.join(" ");
        let mut drawn = format!("<polyline class=\"curve s{colour}\" points=\"{line}\"/>\n");
        if places.len() <= 12 {
            let dot = |(x, y): &(f64, f64)| {
                format!("<circle class=\"d{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>")
            };
            drawn += &places.iter().map(dot).collect::<String>();
        }
        drawn
    }
}

/// An axis from zero to `end` with a line at every `step`.
struct Axis {
    end: f64,
    step: f64,
}

impl Axis {
    /// The shortest axis with even steps of 1, 2 or 5 that `most` fits on.
    fn to(most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / (TICKS_MAX - 1.0);
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|unit| unit * power)
            .find(|step| *step >= rough * 0.999)
            .unwrap_or(rough);
        Self {
            end: step * (most / step * 0.999).ceil(),
            step,
        }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (0..=(self.end / self.step).round() as usize).map(|i| i as f64 * self.step)
    }

    fn label(&self, tick: f64) -> String {
        let decimals = (-self.step.log10().floor()).max(0.0) as usize;
        format!("{tick:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_few_even_lines_and_holds_all() {
        for (most, labels) in [
            (3.7, "0 1 2 3 4"),
            (1.0, "0.0 0.2 0.4 0.6 0.8 1.0"),
            (0.031, "0.00 0.01 0.02 0.03 0.04"),
            (1500.0, "0 500 1000 1500"),
            (0.0, "0.0 0.2 0.4 0.6 0.8 1.0"),
        ] {
            let axis = Axis::to(most);
            let shown: Vec<String> = axis.ticks().map(|tick| axis.label(tick)).collect();
            assert_eq!(shown.join(" "), labels, "{most}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_drawn() {
        let chart = |points: Vec<(f64, f64)>| Chart {
            curves: vec![("a".into(), points)],
            ..Chart::default()
        };
        assert_eq!(chart(vec![(1.0, f64::NAN)]).html(), "");
        assert_eq!(chart(Vec::new()).html(), "");
        let html = chart(vec![(0.0, 1.0), (f64::INFINITY, 1.0), (2.0, 0.5)]).html();
        assert!(
            html.contains("points=\"40.0,12.0 388.0,85.0\"")
                && !html.contains("inf")
                && !html.contains("NaN"),
            "{html}"
        );
    }
}
