//! `--profile`: where the time of a test goes, as a table for people and as a trace for a browser.

use crate::rows::{Column, md_header};
use plateau::exec::RunTimes;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One run of a test with a timestamp between each two dispatches.
pub struct ProfiledTest {
    /// With the model's label where there are several.
    pub name: String,
    /// Of the whole run, on the host's clock.
    pub wall_ns: u64,
    /// What a timestamp adds to a dispatch, by comparison with the runs before. It is part of every time.
    pub stamp_ns: f64,
    pub runs: Vec<RunTimes>,
}

/// How often something ran, and for how long in all.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: u64,
    ns: u64,
}

/// A kernel's dispatches, in all and by what they do.
#[derive(Debug, Default)]
struct ByRole {
    total: Total,
    roles: BTreeMap<String, Total>,
}

impl Total {
    fn add(&mut self, ns: u64) {
        self.count += 1;
        self.ns += ns;
    }

    fn cells(&self, name: &str, all_ns: u64, stamp_ns: f64) -> String {
        let mean = self.ns as f64 / self.count.max(1) as f64;
        format!(
            "| {name:<42} | {:>7} | {:>10.3} | {:>7.1} | {:>9.2} | {:>9.2} |\n",
            self.count,
            self.ns as f64 / 1e6,
            100.0 * self.ns as f64 / all_ns.max(1) as f64,
            mean / 1e3,
            (mean - stamp_ns).max(0.0) / 1e3
        )
    }
}

/// What a dispatch does in any layer: `self_attn.q_proj+k_proj` of `model.layers.3.self_attn.q_proj+model.layers.3.self_attn.k_proj`.
pub fn role(label: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let in_layer = |name: &str| {
        let parts: Vec<&str> = name.split('.').collect();
        let layer = parts.iter().position(|part| is_number(part));
        parts[layer.map_or(0, |layer| layer + 1)..].join(".")
    };
    let mut names = label.split('+').map(in_layer);
    let first = names.next().unwrap_or_default();
    let module = first.rfind('.').map_or("", |dot| &first[..=dot]).to_owned();
    names.fold(first, |joined, name| {
        format!("{joined}+{}", name.strip_prefix(&module).unwrap_or(&name))
    })
}

fn largest_first<T>(totals: BTreeMap<T, Total>) -> Vec<(T, Total)> {
    let mut totals: Vec<(T, Total)> = totals.into_iter().collect();
    totals.sort_by_key(|(_, total)| std::cmp::Reverse(total.ns));
    totals
}

impl ProfiledTest {
    /// Time by kernel; where one kernel does several things, by what it does too.
    pub fn table(&self) -> String {
        let mut kernels: BTreeMap<&str, ByRole> = BTreeMap::new();
        let mut all = Total::default();
        for dispatch in self.runs.iter().flat_map(|run| &run.dispatches) {
            let ns = dispatch.ns();
            let kernel = kernels.entry(dispatch.kernel).or_default();
            kernel.total.add(ns);
            let role = role(&dispatch.label);
            kernel.roles.entry(role).or_default().add(ns);
            all.add(ns);
        }
        let mut lines: Vec<(&str, ByRole)> = kernels.into_iter().collect();
        lines.sort_by_key(|(_, kernel)| std::cmp::Reverse(kernel.total.ns));
        let mut text = format!(
            "\nprofile of {}: {} submissions, {:.3} ms by the clock, {:.1} % of it in dispatches; a timestamp adds about {:.2} µs to \
             each\n\n",
            self.name,
            self.runs.len(),
            self.wall_ns as f64 / 1e6,
            100.0 * all.ns as f64 / self.wall_ns.max(1) as f64,
            self.stamp_ns / 1e3
        );
        text.push_str(&md_header(&[
            Column::text("kernel", 42),
            Column::number("count", 7),
            Column::number("total ms", 10),
            Column::number("share %", 7),
            Column::number("mean µs", 9),
            Column::number("less that", 9),
        ]));
        for (kernel, ByRole { total, roles }) in lines {
            text.push_str(&total.cells(kernel, all.ns, self.stamp_ns));
            if roles.len() > 1 {
                for (role, total) in largest_first(roles) {
                    text.push_str(&total.cells(&format!("– {role}"), all.ns, self.stamp_ns));
                }
            }
        }
        text.push_str(&all.cells("all", all.ns, self.stamp_ns));
        text
    }

    /// A process for the test, with a row for submissions and one for dispatches. Times of the format are in µs.
    fn events(&self, process: usize) -> Vec<Value> {
        const SUBMISSIONS: u32 = 0;
        const DISPATCHES: u32 = 1;
        let us = |ns: u64| ns as f64 / 1e3;
        let mut events = vec![
            json!({"ph": "M", "pid": process, "name": "process_name", "args": {"name": self.name}}),
        ];
        for (thread, name) in [(SUBMISSIONS, "submissions"), (DISPATCHES, "dispatches")] {
            events.push(
                json!({"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": name}}),
            );
        }
        for (index, run) in self.runs.iter().enumerate() {
            events.push(json!({
                "ph": "X", "cat": "submission", "pid": process, "tid": SUBMISSIONS,
                "name": format!("submission {index}"),
                "ts": us(run.start_ns), "dur": us(run.ns()),
                "args": {"dispatches": run.dispatches.len()},
            }));
            for dispatch in &run.dispatches {
                events.push(json!({
                    "ph": "X", "cat": "dispatch", "pid": process, "tid": DISPATCHES,
                    "name": dispatch.kernel,
                    "ts": us(dispatch.start_ns), "dur": us(dispatch.ns()),
                    "args": {"label": dispatch.label, "submission": index},
                }));
            }
        }
        events
    }
}

/// The tests in the trace event format, an event a line. `about` is for who finds the file.
pub fn trace(tests: &[ProfiledTest], about: &Value) -> String {
    let events = tests
        .iter()
        .enumerate()
        .flat_map(|(index, test)| test.events(index + 1));
    let events: Vec<String> = events.map(|event| event.to_string()).collect();
    format!(
        "{{\"displayTimeUnit\": \"ns\", \"otherData\": {about}, \"traceEvents\": [\n{}\n]}}\n",
        events.join(",\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use plateau::exec::DispatchTime;

    fn test() -> ProfiledTest {
        let dispatch = |kernel, label: &str, start_ns, end_ns| DispatchTime {
            kernel,
            label: label.to_owned(),
            start_ns,
            end_ns,
        };
        let run = |start_ns| RunTimes {
            start_ns,
            end_ns: start_ns + 4000,
            dispatches: vec![
                dispatch(
                    "gemv_i4",
                    "layers.0.mlp.down_proj",
                    start_ns,
                    start_ns + 1000,
                ),
                dispatch(
                    "gemv_i4",
                    "layers.1.mlp.down_proj",
                    start_ns + 1000,
                    start_ns + 2000,
                ),
                dispatch("gemv_i4", "lm_head", start_ns + 2000, start_ns + 3500),
                dispatch("argmax", "argmax", start_ns + 3500, start_ns + 4000),
            ],
        };
        ProfiledTest {
            name: "tg2".to_owned(),
            wall_ns: 16_000,
            stamp_ns: 250.0,
            runs: vec![run(0), run(5000)],
        }
    }

    #[test]
    fn a_role_is_a_label_without_its_layer() {
        assert_eq!(role("layers.31.mlp.down_proj"), "mlp.down_proj");
        assert_eq!(role("lm_head.x_q"), "lm_head.x_q");
        assert_eq!(
            role("model.layers.3.self_attn.q_proj+model.layers.3.self_attn.k_proj.x_q"),
            "self_attn.q_proj+k_proj.x_q"
        );
    }

    #[test]
    fn the_table_adds_up() {
        let text = test().table();
        assert!(
            text.contains("2 submissions, 0.016 ms by the clock, 50.0 % of it in dispatches"),
            "{text}"
        );
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!((rows[0][6], rows[3][6]), ("0.92", "0.25"));
        let row = |i: usize| (rows[i][1], rows[i][2], rows[i][4], rows[i][5]);
        assert_eq!(row(0), ("gemv_i4", "6", "87.5", "1.17"));
        assert_eq!(row(1), ("– mlp.down_proj", "4", "50.0", "1.00"));
        assert_eq!(row(2), ("– lm_head", "2", "37.5", "1.50"));
        assert_eq!(row(3), ("argmax", "2", "12.5", "0.50"));
        assert_eq!(row(4), ("all", "8", "100.0", "1.00"));
        assert_eq!(rows.len(), 5);
    }

    #[test]
    fn the_trace_is_json_with_an_event_for_each_dispatch() {
        let events = test().events(1);
        let complete: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(complete.len(), 2 + 8);
        assert_eq!(complete[1]["name"], "gemv_i4");
        assert_eq!(complete[1]["dur"], 1.0);
        assert_eq!(complete[6]["ts"], 5.0);
        assert_eq!(complete[6]["args"]["submission"], 1);
    }
}
