//! Prometheus's text format, version 0.0.4: families of samples with their help and type.
//! Source: prometheus.io, "Exposition formats". Nothing can go wrong: whatever stands in
//! a label is escaped.

use std::fmt::{Display, Write};

/// What a family's values do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// They only grow, from 0 at the start of the process.
    Counter,
    /// They go up and down.
    Gauge,
}

/// The text as far as it is written.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

/// Labels of a sample, by name.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.0
    }

    /// A family with its samples; one without any is left out.
    pub(crate) fn family<'a, V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'a>, V)>,
    ) {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        self.head(name, word, help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    /// A gauge of one sample.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help, [(&[][..], value)]);
    }

    /// A counter of one sample.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Counter, help, [(&[][..], value)]);
    }

    /// A gauge that is 1 for the state in force and 0 for each of the others.
    pub(crate) fn states(&mut self, name: &str, label: &str, help: &str, all: &[&str], now: &str) {
        self.head(name, "gauge", help);
        for state in all {
            self.sample(name, &[(label, state)], u8::from(*state == now));
        }
    }

    /// The head of a histogram.
    pub(crate) fn histogram_head(&mut self, name: &str, help: &str) {
        self.head(name, "histogram", help);
    }

    /// One series of it: how many fell into each bucket (and not below), beside the upper
    /// bounds; the last count is of those above all bounds.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        (label, value): (&str, &str),
        (bounds, counts): (&[f64], &[u64]),
        sum: f64,
    ) {
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (at, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds.get(at).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.sample(&bucket, &[(label, value), ("le", &bound)], total);
        }
        self.sample(&format!("{name}_sum"), &[(label, value)], sum);
        self.sample(&format!("{name}_count"), &[(label, value)], total);
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_as_it_is_specified() {
        let mut text = Text::default();
        text.gauge("a_bytes", "How many.", 7);
        text.family::<u8>("none", Kind::Gauge, "Nothing.", []);
        let labels: Labels<'_> = &[("x", "a\\b\"c\nd"), ("y", "")];
        text.family("b_total", Kind::Counter, "Count.", [(labels, 1.5)]);
        text.states("s", "state", "State.", &["A", "B"], "B");
        text.histogram_head("h_seconds", "Time.");
        text.histogram("h_seconds", ("p", "m"), (&[0.1, 1.0], &[1, 2, 3]), 9.25);
        let expected = "# HELP a_bytes How many.\n# TYPE a_bytes gauge\na_bytes 7\n\
            # HELP b_total Count.\n# TYPE b_total counter\n\
            b_total{x=\"a\\\\b\\\"c\\nd\",y=\"\"} 1.5\n\
            # HELP s State.\n# TYPE s gauge\ns{state=\"A\"} 0\ns{state=\"B\"} 1\n\
            # HELP h_seconds Time.\n# TYPE h_seconds histogram\n\
            h_seconds_bucket{p=\"m\",le=\"0.1\"} 1\nh_seconds_bucket{p=\"m\",le=\"1\"} 3\n\
            h_seconds_bucket{p=\"m\",le=\"+Inf\"} 6\n\
            h_seconds_sum{p=\"m\"} 9.25\nh_seconds_count{p=\"m\"} 6\n";
        assert_eq!(text.finish(), expected);
    }
}
