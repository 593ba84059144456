//! The table that a run prints: ratio, spread, target, absolute figures.

/// Rows of the result.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 5]>,
}

/// Median, minimum and maximum of some measurements.
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            panic!("no measurement");
        };
        Spread { median: values[values.len() / 2], min, max }
    }

    /// Each value divided by its partner of the same round.
    pub(crate) fn ratio(of: &[f64], to: &[f64]) -> Spread {
        Spread::of(of.iter().zip(to).map(|(of, to)| of / to))
    }
}

impl Table {
    /// A figure that has to reach at least `target`.
    pub(crate) fn at_least(&mut self, what: &str, figure: &Spread, target: f64, absolute: &str) {
        self.push(what, figure, figure.median >= target, &format!("≥ {target}"), absolute);
    }

    /// A figure that may be at most `target`.
    pub(crate) fn at_most(&mut self, what: &str, figure: &Spread, target: f64, absolute: &str) {
        self.push(what, figure, figure.median <= target, &format!("≤ {target}"), absolute);
    }

    /// A figure without a target.
    pub(crate) fn figure(&mut self, what: &str, figure: &Spread, absolute: &str) {
        self.push(what, figure, true, "", absolute);
    }

    fn push(&mut self, what: &str, figure: &Spread, met: bool, target: &str, absolute: &str) {
        let Spread { median, min, max } = figure;
        let verdict = match (target, met) {
            ("", _) => "",
            (_, true) => "reached",
            (_, false) => "NOT reached",
        };
        self.rows.push([
            what.to_owned(),
            format!("{median:.2} ({min:.2}–{max:.2})"),
            target.to_owned(),
            verdict.to_owned(),
            absolute.to_owned(),
        ]);
    }

    /// Prints it, with the machine.
    pub(crate) fn print(&self) {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown processor");
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!("\n{cores} cores, {model}\n");
        println!("| what | median (min–max) | target | | absolute |\n|---|---|---|---|---|");
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
    }
}
