//! The two formats of `/metrics`, and which of them an `Accept` asks for.
//!
//! | format | for |
//! |---|---|
//! | text 0.0.4 | whoever says nothing, `*/*` or `text/plain`: agents, people, `promtool check metrics` |
//! | OpenMetrics 1.0 | whoever prefers it by name, as Prometheus does |
//!
//! The encoder that the registry has writes OpenMetrics. Text 0.0.4 is the same lines but for what
//! describes them: a counter is called by the name of its samples, with `_total`, and there is
//! neither a unit nor an end.

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// How well something in an `Accept` fits: its quality in thousandths; then how exactly it is
/// named; then whether it comes first.
type Rank = (u16, u8, std::cmp::Reverse<usize>);

impl Format {
    /// The format's media type.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Text => ("text", "plain", "0.0.4"),
            Self::OpenMetrics => ("application", "openmetrics-text", "1.0.0"),
        }
    }

    /// The format that these values of `Accept` ask for. Text if they prefer neither, because every
    /// scraper reads it.
    pub(crate) fn of<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let ranges: Vec<_> = accept
            .into_iter()
            .flat_map(|value| value.split(','))
            .collect();
        let rank = |format: Self| {
            let fits = ranges.iter().enumerate().filter_map(|(place, range)| {
                let (exactness, quality) = format.fits(range)?;
                Some((quality, exactness, std::cmp::Reverse(place)))
            });
            // What is named most exactly decides about a format, also when something wider has the
            // better quality.
            fits.max_by_key(|(quality, exactness, place): &Rank| (*exactness, *quality, *place))
                .filter(|(quality, ..)| *quality > 0)
        };
        match (rank(Self::Text), rank(Self::OpenMetrics)) {
            (None, Some(_)) => Self::OpenMetrics,
            (Some(text), Some(open)) if open > text => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    /// How exactly a media range names this format, and with which quality; `None` if it is
    /// another's.
    fn fits(self, range: &str) -> Option<(u8, u16)> {
        let mut parts = range.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let (own_kind, own_subtype, own_version) = self.parts();
        let is = |word: &str, own: &str| word.trim().eq_ignore_ascii_case(own);
        let mut exactness = match (is(kind, own_kind), is(subtype, own_subtype)) {
            (true, true) => 2,
            (true, false) if subtype == "*" => 1,
            (false, _) if kind == "*" && subtype == "*" => 0,
            _ => return None,
        };
        let mut quality = 1000;
        for part in parts {
            let Some((name, value)) = part.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            if is(name, "q") {
                quality = thousandths(value)?;
            } else if is(name, "version") {
                // Another version is another format; Prometheus names an older one of OpenMetrics
                // beside this.
                if value != own_version {
                    return None;
                }
                exactness += 1;
            }
        }
        Some((exactness, quality))
    }
}

/// A quality of HTTP: 0 to 1 with three digits at most. What is none makes its media range none.
fn thousandths(text: &str) -> Option<u16> {
    let value: f32 = text.parse().ok()?;
    (0.0..=1.0)
        .contains(&value)
        .then(|| (value * 1000.0).round() as u16)
}

/// OpenMetrics as text 0.0.4.
pub(crate) fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some((_, said)) = help.take().and_then(|help| help.split_once(' ')) {
                // Only OpenMetrics escapes a quotation mark there.
                let said = said.replace("\\\"", "\"");
                text.extend(["# HELP ", name, suffix, " ", &said, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Format::*, *};

    #[test]
    fn accept_decides_by_quality_then_by_name() {
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let text_first =
            "text/plain;version=0.0.4;q=0.9, application/openmetrics-text;version=1.0.0;q=0.5";
        for (accept, format) in [
            ("", Text),
            ("*/*", Text),
            ("text/plain", Text),
            ("text/*", Text),
            ("text/html, */*;q=0.8", Text),
            ("application/json", Text),
            ("application/*", OpenMetrics),
            ("application/openmetrics-text", OpenMetrics),
            (
                "Application/OpenMetrics-Text; version=\"1.0.0\"",
                OpenMetrics,
            ),
            ("application/openmetrics-text; version=0.0.1", Text),
            ("application/openmetrics-text;q=0", Text),
            ("application/openmetrics-text;q=0.000, */*", Text),
            ("application/openmetrics-text;q=2", Text),
            ("application/openmetrics-text;q=x", Text),
            (
                "application/openmetrics-text;q=0.1, text/plain;q=0",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.5, text/plain;q=0.4",
                OpenMetrics,
            ),
            ("application/openmetrics-text;q=0.4, text/plain;q=0.5", Text),
            ("application/openmetrics-text;q=0.4, */*;q=0.5", Text),
            ("text/plain, application/openmetrics-text", Text),
            ("application/openmetrics-text, text/plain", OpenMetrics),
            ("application/openmetrics-text, */*", OpenMetrics),
            (prometheus_2, OpenMetrics),
            (prometheus_3, OpenMetrics),
            (text_first, Text),
            (",;,/;q=,  ;;", Text),
        ] {
            assert_eq!(Format::of([accept]), format, "{accept}");
        }
        // Several lines of a header are one list.
        let lines = ["text/plain;q=0.4", "application/openmetrics-text"];
        assert_eq!(Format::of(lines), OpenMetrics);
        assert_eq!(Format::of([]), Text);
    }

    #[test]
    fn text_describes_counters_by_the_name_of_their_samples() {
        let open = "# HELP a_bytes Of \\\"a\\\" and \\\\.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"\\\"# HELP\"} 1\n\
                    # HELP b B.\n# TYPE b histogram\nb_sum 1.0\nb_count 1\nb_bucket{le=\"+Inf\"} 1\n\
                    # TYPE c unknown\nc 1\n# HELP d D.\n# TYPE d info\nd_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_bytes_total Of \"a\" and \\\\.\n# TYPE a_bytes_total counter\na_bytes_total{x=\"\\\"# HELP\"} 1\n\
                    # HELP b B.\n# TYPE b histogram\nb_sum 1.0\nb_count 1\nb_bucket{le=\"+Inf\"} 1\n\
                    # TYPE c untyped\nc 1\n# HELP d_info D.\n# TYPE d_info gauge\nd_info{v=\"1\"} 1\n";
        assert_eq!(to_text(open), text);
    }
}
