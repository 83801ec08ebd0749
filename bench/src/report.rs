//! Tables: Markdown to be pasted, or JSON for programs.

use serde_json::{Map, Value, json};

/// A value in a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Words.
    Text(String),
    /// A number, and how many decimals are worth printing.
    Number(f64, usize),
    /// Does not apply.
    Nothing,
}

impl Entry {
    /// A number, or nothing.
    #[must_use]
    pub fn of(number: Option<f64>, decimals: usize) -> Entry {
        number.map_or(Entry::Nothing, |number| Entry::Number(number, decimals))
    }

    fn markdown(&self) -> String {
        match self {
            Entry::Text(text) => text.replace('|', "\\|"),
            Entry::Number(number, decimals) => format!("{number:.decimals$}"),
            Entry::Nothing => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Entry::Text(text) => json!(text),
            Entry::Number(number, _) => json!(number),
            Entry::Nothing => Value::Null,
        }
    }
}

/// What one part of a run found.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Its heading.
    pub title: String,
    /// The columns' names, the unit in each.
    pub columns: Vec<&'static str>,
    /// The rows, one entry for each column.
    pub rows: Vec<Vec<Entry>>,
    /// What a reader must know to read it rightly.
    pub notes: Vec<String>,
}

impl Table {
    /// For documents.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |entries: Vec<String>| format!("| {} |\n", entries.join(" | "));
        let mut text = format!("### {}\n\n", self.title);
        if !self.rows.is_empty() {
            text += &line(self.columns.iter().map(ToString::to_string).collect());
            text += &format!("|{}\n", "---|".repeat(self.columns.len()));
        }
        for row in &self.rows {
            text += &line(row.iter().map(Entry::markdown).collect());
        }
        if !self.rows.is_empty() && !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            text += &format!("- {note}\n");
        }
        text
    }

    /// For programs: rows as objects by column.
    #[must_use]
    pub fn json(&self) -> Value {
        let rows: Vec<Map<String, Value>> = self
            .rows
            .iter()
            .map(|row| {
                let named = self.columns.iter().zip(row);
                named
                    .map(|(name, entry)| ((*name).to_owned(), entry.json()))
                    .collect()
            })
            .collect();
        json!({ "title": self.title, "rows": rows, "notes": self.notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_two_forms() {
        let table = Table {
            title: "appends".to_owned(),
            columns: vec!["store", "p50 us"],
            rows: vec![
                vec![Entry::Text("a|b".to_owned()), Entry::Number(1.25, 1)],
                vec![Entry::Text("c".to_owned()), Entry::of(None, 1)],
            ],
            notes: vec!["noisy".to_owned()],
        };
        let expected =
            "### appends\n\n| store | p50 us |\n|---|---|\n| a\\|b | 1.2 |\n| c | - |\n\n- noisy\n";
        assert_eq!(table.markdown(), expected);
        let json = table.json();
        assert_eq!(json["rows"][0]["p50 us"], 1.25);
        assert_eq!(json["rows"][1]["p50 us"], Value::Null);
    }
}
