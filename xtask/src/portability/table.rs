//! Reports as tables: what was executed, compiled and taken, kernel by kernel.

use super::{Implementation, Kind, Outcome, Report, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// One line about a report, for who waits.
pub fn line(one: &Implementation, report: &Report) -> String {
    let count = |outcome| {
        report
            .rows
            .iter()
            .filter(|row| row.outcome == outcome)
            .count()
    };
    let counts = [
        (Outcome::Equal, "equal"),
        (Outcome::Differs, "different"),
        (Outcome::Compiled, "compiled"),
        (Outcome::Accepted, "taken"),
        (Outcome::Refused, "refused"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .map(|&(outcome, name)| (count(outcome), name))
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count} {name}"))
        .collect();
    let mut line = format!("{}: {}", one.name, counts.join(", "));
    if let Some(failure) = &report.failure {
        let _ = write!(line, "not available: {failure}");
    }
    let _ = write!(line, " ({} s)", report.seconds);
    line
}

/// All reports, as a page.
pub fn page(all: &[Implementation], reports: &BTreeMap<String, Report>) -> String {
    let mut page = String::from(
        "| implementation | what | result | commit, date |\n| --- | --- | --- | --- |\n",
    );
    let known: Vec<(&Implementation, &Report)> = all
        .iter()
        .filter_map(|one| Some((one, reports.get(&one.name)?)))
        .collect();
    for (one, report) in &known {
        let line = line(one, report);
        let result = line.split_once(": ").map_or("", |(_, result)| result);
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} {} |",
            one.name,
            report.about,
            result.replace('|', "/"),
            report.commit,
            report.date
        );
    }
    let titles = [
        (
            Kind::Executed,
            "Executed: cases whose outputs are the twin's",
        ),
        (
            Kind::Compiled,
            "Compiled: registers, spills, bytes of workgroup memory, bytes of code (NVIDIA: instructions), the most of all variants that the engine chooses there; \
             d: a dot product of bytes is an instruction, m: there are instructions on matrices",
        ),
        (Kind::Translated, "Taken by compilers: variants"),
    ];
    for (kind, title) in titles {
        let columns: Vec<(&Implementation, &Report)> = known
            .iter()
            .copied()
            .filter(|(one, report)| one.kind == kind && !report.rows.is_empty())
            .collect();
        if !columns.is_empty() {
            let _ = writeln!(page, "\n{title}\n");
            matrix(&columns, &mut page);
        }
    }
    page
}

fn matrix(columns: &[(&Implementation, &Report)], page: &mut String) {
    let names: Vec<&str> = columns.iter().map(|(one, _)| one.name.as_str()).collect();
    let _ = writeln!(page, "| kernel | {} |", names.join(" | "));
    let _ = writeln!(page, "| --- |{}", " --- |".repeat(names.len()));
    let rows = columns.iter().flat_map(|(_, report)| &report.rows);
    let kernels: BTreeSet<&str> = rows.map(|row| row.kernel.as_str()).collect();
    let mut notes: Vec<String> = Vec::new();
    for kernel in kernels {
        let cells: Vec<String> = columns
            .iter()
            .map(|(_, report)| {
                let rows: Vec<&Row> = report
                    .rows
                    .iter()
                    .filter(|row| row.kernel == kernel)
                    .collect();
                cell(&rows, &mut notes)
            })
            .collect();
        let _ = writeln!(page, "| {kernel} | {} |", cells.join(" | "));
    }
    for (number, note) in notes.iter().enumerate() {
        let _ = writeln!(page, "\n[{}] {}", number + 1, note.replace('|', "/"));
    }
}

/// What became of the rows of one kernel; a reason is one of the notes.
fn cell(rows: &[&Row], notes: &mut Vec<String>) -> String {
    let Some(first) = rows.first() else {
        return "-".to_owned();
    };
    let good: Vec<&&Row> = rows
        .iter()
        .filter(|row| !matches!(row.outcome, Outcome::Refused | Outcome::Differs))
        .collect();
    let bad = rows
        .iter()
        .find(|row| matches!(row.outcome, Outcome::Refused | Outcome::Differs));
    let mut text = match first.outcome {
        Outcome::Compiled if good.len() == rows.len() => figures(&good),
        _ if good.is_empty() => String::new(),
        _ if good.len() == rows.len() => good.len().to_string(),
        _ => format!("{} of {}", good.len(), rows.len()),
    };
    if let Some(bad) = bad {
        let what = if bad.outcome == Outcome::Differs {
            "differs"
        } else {
            "refused"
        };
        let note = format!("{what}: {}", bad.why);
        let number = notes
            .iter()
            .position(|known| *known == note)
            .unwrap_or_else(|| {
                notes.push(note);
                notes.len() - 1
            });
        let _ = write!(text, " [{}]", number + 1);
    }
    text.trim().to_owned()
}

/// `48 0 7168 6080 d`
fn figures(rows: &[&&Row]) -> String {
    let chosen = rows.iter().filter(|row| !row.for_more_registers);
    let all: Vec<_> = chosen.filter_map(|row| row.figures).collect();
    if all.is_empty() {
        return "yes".to_owned();
    }
    let most = |of: fn(&super::Figures) -> Option<u32>| {
        let most = all.iter().filter_map(of).max();
        most.map_or("?".to_owned(), |most| most.to_string())
    };
    let mut text = [
        most(|figures| figures.registers),
        most(|figures| figures.spills),
        most(|figures| figures.lds),
        most(|figures| figures.code),
    ]
    .join(" ");
    if all.iter().any(|figures| figures.dot) {
        text.push_str(" d");
    }
    if all.iter().any(|figures| figures.matrix) {
        text.push_str(" m");
    }
    text
}
