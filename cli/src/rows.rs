//! Rows of a measurement, printed as they come: a table for people, or one of three forms for programs.

use crate::args::BenchOutput;
use crate::console::{print, print_line};
use crate::exit::CliError;
use serde_json::{Value, json};

/// A field of a row, for programs. Their order stays.
pub type Field = (&'static str, Value);

/// A column of the table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub width: usize,
    /// To the right.
    pub is_number: bool,
}

impl Column {
    pub const fn text(name: &'static str, width: usize) -> Self {
        Self {
            name,
            width,
            is_number: false,
        }
    }

    pub const fn number(name: &'static str, width: usize) -> Self {
        Self {
            name,
            width,
            is_number: true,
        }
    }

    fn cell(&self, text: &str) -> String {
        let width = self.width;
        if self.is_number {
            format!("{text:>width$}")
        } else {
            format!("{text:<width$}")
        }
    }

    fn rule(&self) -> String {
        if self.is_number {
            format!("{}:", "-".repeat(self.width - 1))
        } else {
            "-".repeat(self.width)
        }
    }
}

/// The two lines above the rows.
pub fn md_header(columns: &[Column]) -> String {
    let names: Vec<String> = columns
        .iter()
        .map(|column| column.name.to_owned())
        .collect();
    let rules: Vec<String> = columns.iter().map(Column::rule).collect();
    format!("{}| {} |\n", md_line(columns, &names), rules.join(" | "))
}

pub fn md_line(columns: &[Column], cells: &[String]) -> String {
    let cells = columns.iter().zip(cells);
    let cells: Vec<String> = cells.map(|(column, cell)| column.cell(cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The fields on one line, in their order: a `serde_json` map would sort them.
pub fn json_object(fields: &[Field]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{}: {value}", json!(name)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

/// Name and quoted value of every field but lists, as llama-bench does.
pub fn csv_fields(fields: &[Field]) -> Vec<(&'static str, String)> {
    let csv = |(name, value): &Field| Some((*name, csv_value(value)?));
    fields.iter().filter_map(csv).collect()
}

fn csv_value(value: &Value) -> Option<String> {
    let text = match value {
        Value::Array(_) | Value::Object(_) => return None,
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    Some(format!("\"{}\"", text.replace('"', "\"\"")))
}

/// Prints rows in the form that was asked for.
pub struct Rows {
    form: BenchOutput,
    columns: Vec<Column>,
    count: usize,
}

impl Rows {
    pub fn new(form: BenchOutput, columns: Vec<Column>) -> Self {
        Self {
            form,
            columns,
            count: 0,
        }
    }

    /// `cells` are what the table shows of `fields`.
    pub fn row(&mut self, fields: &[Field], cells: &[String]) -> Result<(), CliError> {
        let mut text = String::new();
        match self.form {
            BenchOutput::Md => {
                if self.count == 0 {
                    text.push_str(&md_header(&self.columns));
                }
                text.push_str(&md_line(&self.columns, cells));
            }
            BenchOutput::Csv => {
                let fields = csv_fields(fields);
                if self.count == 0 {
                    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
                    text.push_str(&format!("{}\n", names.join(",")));
                }
                let values: Vec<&str> = fields.iter().map(|(_, value)| value.as_str()).collect();
                text.push_str(&format!("{}\n", values.join(",")));
            }
            BenchOutput::Json => {
                text.push_str(if self.count == 0 { "[\n  " } else { ",\n  " });
                text.push_str(&json_object(fields));
            }
            BenchOutput::Jsonl => text.push_str(&format!("{}\n", json_object(fields))),
        }
        self.count += 1;
        print(&text)
    }

    /// Ends the list; the table alone has a last line.
    pub fn finish(self, last: Option<&str>) -> Result<(), CliError> {
        match (self.form, last) {
            (BenchOutput::Md, Some(last)) => print_line(&format!("\n{last}")),
            (BenchOutput::Json, _) if self.count == 0 => print("[]\n"),
            (BenchOutput::Json, _) => print("\n]\n"),
            (BenchOutput::Md, None) | (BenchOutput::Csv | BenchOutput::Jsonl, _) => Ok(()),
        }
    }
}
