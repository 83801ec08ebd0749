//! The picture in a page: records can be chosen with mouse and keys, and are all there as text too.
//!
//! Invariant: one file that asks nothing of any network (its own policy forbids it); what comes from a
//! journal is text, never markup or script.

use std::io::{self, Write};

use journal_format::record::RecordBody;
use phase_journal::engine::Rule;
use serde_json::{Value, json};

use super::axis::Scale;
use super::draw::{escape, visible};
use super::model::{Group, Story};
use super::svg::{DETAILED_MAX, clocks, heading, period, svg};
use crate::text::time;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page, piece by piece: it is several times as large as the journals' records.
pub(crate) fn html(story: &Story, scale: Option<Scale>, page: &mut dyn Write) -> io::Result<()> {
    let title = escape(&heading(story));
    write!(
        page,
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{STYLE}</style>
</head>
<body class="timeline">
<header>
<h1>{title}</h1>
<p>{}</p>
<div class="tools" role="toolbar" aria-label="View">
<button type="button" id="smaller" aria-label="Smaller">&#8722;</button>
<button type="button" id="fit">Fit</button>
<button type="button" id="larger" aria-label="Larger">+</button>
<button type="button" id="theme">Light or dark</button>
<label>Find <input type="search" id="find" placeholder="name, record type, rule"></label>
<span id="found" role="status"></span>
</div>
<p class="keys">Choose a record: click it, or press Tab to reach the picture, &#8592; &#8594; to go from record to record, Enter to read it, Escape to close.</p>
</header>
<main>
<div id="picture" tabindex="-1">
"#,
        escape(&period(story))
    )?;
    page.write_all(svg(story, scale, false).as_bytes())?;
    page.write_all(
        b"</div>\n<section id=\"details\" aria-live=\"polite\" aria-label=\"Chosen record\" hidden></section>\n\
          <section id=\"records\">\n<h2>All records</h2>\n",
    )?;
    let open = if story.groups.len() <= DETAILED_MAX {
        " open"
    } else {
        ""
    };
    for (number, group) in story.groups.iter().enumerate() {
        table(story, group, number, open, page)?;
    }
    page.write_all(b"</section>\n<section><h2>Journals and clocks</h2>\n<ul>\n")?;
    for line in clocks(story) {
        writeln!(page, "<li>{}</li>", escape(&line))?;
    }
    page.write_all(b"</ul>\n</section>\n</main>\n")?;
    page.write_all(b"<script type=\"application/json\" id=\"data\">")?;
    data(story, page)?;
    page.write_all(b"</script>\n")?;
    writeln!(page, "<script>\n{SCRIPT}</script>\n</body>\n</html>")
}

fn table(
    story: &Story,
    group: &Group,
    number: usize,
    open: &str,
    page: &mut dyn Write,
) -> io::Result<()> {
    write!(
        page,
        "<details{open} id=\"group-{number}\"><summary><bdi>{}</bdi>: {}</summary>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">time (UTC)</th>\
         <th scope=\"col\">journal</th><th scope=\"col\">lsn</th><th scope=\"col\">record</th>\
         <th scope=\"col\">what it says</th></tr></thead>\n<tbody>\n",
        escape(story.name(group)),
        escape(&story.summary(group))
    )?;
    for moment in in_order(story, group) {
        let record = &story.moments[moment];
        writeln!(
            page,
            "<tr data-record=\"{moment}\"><td>{}</td><td><bdi>{}</bdi></td><td>{}</td><td><button type=\"button\">{}</button></td><td><bdi>{}</bdi></td></tr>",
            time(story.time(moment)),
            escape(&story.books[record.book].label),
            record.lsn,
            escape(&record.kind),
            escape(&record.said())
        )?;
    }
    page.write_all(b"</tbody></table></div></details>\n")
}

/// A group's records of both sides as they came.
pub(crate) fn in_order(story: &Story, group: &Group) -> Vec<usize> {
    let tracks = group.tracks.iter().map(|track| &story.tracks[*track]);
    let mut moments: Vec<usize> = tracks
        .flat_map(|track| track.moments.iter().copied())
        .collect();
    moments.sort_by_key(|moment| (story.time(*moment), story.moments[*moment].book, *moment));
    moments
}

/// What is shown of chosen records: an object with one entry for each.
fn data(story: &Story, page: &mut dyn Write) -> io::Result<()> {
    let shown = story.groups.iter().flat_map(|group| in_order(story, group));
    page.write_all(b"{")?;
    for (index, moment) in shown.enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let value = script_safe(&chosen(story, moment));
        write!(page, "{comma}\"{moment}\":{value}")?;
    }
    page.write_all(b"}")
}

fn chosen(story: &Story, moment: usize) -> Value {
    let record = &story.moments[moment];
    let book = &story.books[record.book];
    let track = &story.tracks[record.track];
    let mut fields = vec![
        ("record".to_owned(), record.kind.clone().into_owned()),
        ("says".to_owned(), record.said()),
        ("domain".to_owned(), track.name.clone()),
        ("job".to_owned(), track.job.to_string()),
        ("journal".to_owned(), book.label.clone()),
        ("lsn".to_owned(), record.lsn.to_string()),
        (
            "time".to_owned(),
            format!("{} UTC", time(story.time(moment))),
        ),
    ];
    if let Some(RecordBody::Decided(decided)) = &record.body
        && let Some(rule) = Rule::from_name(&decided.rule)
    {
        fields.insert(2, ("because".to_owned(), rule.text().reason.to_owned()));
        if !rule.text().settled_by.is_empty() {
            fields.insert(
                3,
                ("settled by".to_owned(), rule.text().settled_by.to_owned()),
            );
        }
    }
    if book.shift != 0 {
        fields.push((
            "its own clock".to_owned(),
            format!("{} UTC", time(record.wall)),
        ));
    }
    fields.push((
        "durable with".to_owned(),
        format!("the batch of record {}", record.batch),
    ));
    fields.push((
        "file".to_owned(),
        format!("{}, byte {}", record.segment.file_name(), record.offset),
    ));
    let fields: Vec<[String; 2]> = fields
        .into_iter()
        .map(|(name, value)| [name, visible(&value)])
        .collect();
    let body = record
        .body
        .as_ref()
        .and_then(|body| serde_json::to_value(body).ok());
    let body = body.and_then(|body| serde_json::to_string_pretty(&body).ok());
    let body = body.map(|body| body.split('\n').map(visible).collect::<Vec<_>>().join("\n"));
    json!({"fields": fields, "body": body})
}

/// JSON that cannot end the element that it stands in.
fn script_safe(value: &Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::script_safe;
    use serde_json::json;

    #[test]
    fn data_does_not_end_its_element() {
        let safe = script_safe(&json!({"a": "</script><!--&"}));
        assert!(!safe.contains(['<', '>', '&']), "{safe}");
        let read: serde_json::Value = serde_json::from_str(&safe).unwrap();
        assert_eq!(read["a"], "</script><!--&");
    }
}
