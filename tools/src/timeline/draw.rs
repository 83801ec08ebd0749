//! SVG: elements, colours, and text from outside that can do no harm.
//!
//! Invariant: text reaches the picture only through [`visible`] and [`escape`]; the picture refers to nothing
//! outside of it.

use std::fmt::Write as _;

use journal_format::record::{Decision, Phase};

use crate::text::plain;

/// Text from outside with nothing in it that changes how other text is shown: control characters and
/// those that turn the direction of writing appear as escapes.
pub(crate) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in plain(text).chars() {
        match character {
            '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => visible.extend(character.escape_unicode()),
            _ => visible.push(character),
        }
    }
    visible
}

/// Text between tags or in a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in visible(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// At most so many characters, the end left out.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let text = visible(text);
    if text.chars().count() <= most {
        return text;
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('\u{2026}');
    short
}

/// How wide text is, about; the picture cannot know the font that will be there.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    let units = |character: char| match character {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ':' | ';' | '\'' | '|' | ' ' => 0.36,
        'm' | 'w' | 'M' | 'W' => 0.86,
        'A'..='Z' => 0.68,
        '\u{0}'..='\u{2ff}' => 0.56,
        _ => 1.0,
    };
    text.chars().map(units).sum::<f64>() * size
}

/// What a phase is like, which gives its colour.
pub(crate) fn phase_class(phase: Option<Phase>) -> &'static str {
    match phase {
        Some(Phase::Begin3 | Phase::Prepare | Phase::BeginResume | Phase::PrepareResume) => "ready",
        Some(Phase::Perform2 | Phase::Perform3 | Phase::PerformResume) => "perform",
        Some(Phase::Perform3Done | Phase::PostcopyFailed) => "doubt",
        Some(
            Phase::Finish2
            | Phase::Finish3
            | Phase::Confirm3
            | Phase::ConfirmResume
            | Phase::FinishResume,
        ) => "finish",
        Some(Phase::Confirm3Cancelled) => "cancelled",
        None => "other",
    }
}

/// A picture in the making.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub(crate) svg: String,
}

impl Picture {
    /// Something as it is: only from the program itself.
    pub(crate) fn raw(&mut self, text: &str) {
        self.svg.push_str(text);
        self.svg.push('\n');
    }

    pub(crate) fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64), round: f64) {
        let ((x, y), (width, height)) = (at, size);
        let width = width.max(0.5);
        let _ = writeln!(
            self.svg,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="{round}"/>"#
        );
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.svg,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    pub(crate) fn path(&mut self, class: &str, path: &str) {
        let _ = writeln!(self.svg, r#"<path class="{class}" d="{path}"/>"#);
    }

    pub(crate) fn circle(&mut self, class: &str, at: (f64, f64), radius: f64) {
        let _ = writeln!(
            self.svg,
            r#"<circle class="{class}" cx="{:.1}" cy="{:.1}" r="{radius}"/>"#,
            at.0, at.1
        );
    }

    pub(crate) fn text(&mut self, class: &str, at: (f64, f64), text: &str) {
        let _ = writeln!(
            self.svg,
            r#"<text class="{class}" x="{:.1}" y="{:.1}">{}</text>"#,
            at.0,
            at.1,
            escape(text)
        );
    }

    /// Begins what stands for a record: it has a name for those who do not see it, and can be chosen.
    pub(crate) fn record(&mut self, moment: usize, says: &str) {
        let says = escape(says);
        let _ = writeln!(
            self.svg,
            r#"<g class="record" data-record="{moment}"><title>{says}</title>"#
        );
    }

    pub(crate) fn end(&mut self) {
        self.raw("</g>");
    }

    /// A decision's sign: not told by its colour alone.
    pub(crate) fn sign(&mut self, decision: Decision, x: f64, y: f64) {
        let class = decision.name();
        let path = match decision {
            Decision::Kill => format!("M{:.1} {:.1}l6 6m0 -6l-6 6", x - 3.0, y - 3.0),
            Decision::Resume => format!("M{:.1} {:.1}v8l7 -4z", x - 3.0, y - 4.0),
            Decision::Confirm => format!("M{:.1} {:.1}l2.5 3l4.5 -6.5", x - 3.5, y),
            Decision::Hold => format!("M{:.1} {:.1}v7m4 -7v7", x - 2.0, y - 3.5),
        };
        self.circle(&format!("sign {class}"), (x, y), 7.0);
        self.path(&format!("glyph {class}"), &path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_text() {
        let evil = "<script>alert(1)</script>&\"'\u{1b}[31m\u{202e}gpj.exe\0";
        let escaped = escape(evil);
        assert!(
            !escaped.contains(['<', '>', '"', '\'', '\u{1b}', '\u{202e}', '\0']),
            "{escaped}"
        );
        assert!(
            escaped.contains("&lt;script&gt;") && escaped.contains("\\u{202e}"),
            "{escaped}"
        );
    }

    #[test]
    fn other_scripts_stay_as_they_are() {
        assert_eq!(
            visible("\u{5d0}\u{5d1}-d\u{e4}mon"),
            "\u{5d0}\u{5d1}-d\u{e4}mon"
        );
        assert_eq!(shortened("abcdef", 4), "abc\u{2026}");
        assert_eq!(shortened("abcd", 4), "abcd");
    }
}
