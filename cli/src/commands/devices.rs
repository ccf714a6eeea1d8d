//! `plateau devices`: what `--device` can name.

use crate::args::Devices;
use crate::console::{bytes, print, print_json};
use anyhow::Result;
use plateau::exec::{self, AdapterInfo, DRIVER_HINT};
use plateau::ops::kernel_choices;
use plateau::plan::Matrices;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

const TWIN: &str = "the CPU twins of the kernels: right, and slow";

#[derive(Serialize)]
struct Listing<'a> {
    adapters: Vec<Adapter<'a>>,
    twin: Twin,
    /// What to do about a missing driver; only where no adapter can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

#[derive(Serialize)]
struct Adapter<'a> {
    index: usize,
    name: &'a str,
    backend: &'a str,
    kind: &'a str,
    driver: &'a str,
    /// Bytes of device memory, where the system tells.
    memory: Option<u64>,
    features: BTreeMap<&'a str, bool>,
    limits: BTreeMap<&'a str, u64>,
    kernels: BTreeMap<&'a str, &'a str>,
    /// Cooperative matrices, and what came of their self-test.
    matrices: BTreeMap<&'static str, &'a str>,
    /// µs of integer GEMMs in a trial, by what they run on; the least is used.
    gemms: BTreeMap<&'static str, f64>,
    unusable: Option<&'a str>,
}

#[derive(Serialize)]
struct Twin {
    name: &'static str,
    description: &'static str,
}

pub async fn run(args: &Devices) -> Result<()> {
    let adapters = exec::adapters().await;
    if args.json {
        print_json(&listing(&adapters))?;
    } else {
        print(&table(&adapters))?;
    }
    Ok(())
}

fn listing(adapters: &[AdapterInfo]) -> Listing<'_> {
    let adapter = |adapter: &'_ AdapterInfo| -> bool { adapter.unusable.is_none() };
    Listing {
        adapters: adapters.iter().map(json).collect(),
        twin: Twin {
            name: "twin",
            description: TWIN,
        },
        hint: (!adapters.iter().any(adapter)).then_some(DRIVER_HINT),
    }
}

fn json(adapter: &AdapterInfo) -> Adapter<'_> {
    Adapter {
        index: adapter.index,
        name: &adapter.name,
        backend: adapter.backend,
        kind: adapter.kind,
        driver: &adapter.driver,
        memory: adapter.memory,
        features: adapter.features.iter().copied().collect(),
        limits: adapter.limits.iter().copied().collect(),
        kernels: kernel_choices(adapter.plan_features())
            .into_iter()
            .collect(),
        matrices: matrices(adapter).collect(),
        gemms: adapter
            .gemms
            .iter()
            .map(|(g, us)| (g.name(), *us))
            .collect(),
        unusable: adapter.unusable.as_deref(),
    }
}

/// Cooperative matrices by name, and whether they are used or why not.
fn matrices(adapter: &AdapterInfo) -> impl Iterator<Item = (&'static str, &str)> {
    adapter.matrices.iter().map(|(matrices, state)| {
        let name = match matrices {
            Matrices::F16 => "f16",
            Matrices::F16By8 => "f16 8x8",
            Matrices::Int8 => "int8",
        };
        let state = state.as_ref().map_or_else(String::as_str, |()| "tested");
        (name, state)
    })
}

/// The adapters, best first, and the twins last. Writing to a String cannot fail.
fn table(adapters: &[AdapterInfo]) -> String {
    let mut text = String::new();
    for adapter in adapters {
        let _ = writeln!(
            text,
            "{:<5} {} ({}, {}, driver {})",
            adapter.index, adapter.name, adapter.backend, adapter.kind, adapter.driver
        );
        if let Some(reason) = &adapter.unusable {
            let _ = writeln!(text, "      cannot be used: {reason}");
        }
        let with = |present: bool| {
            let features = adapter
                .features
                .iter()
                .filter(move |(_, has)| *has == present);
            features.map(|(name, _)| (*name).to_owned()).collect()
        };
        let limits = adapter
            .limits
            .iter()
            .map(|(name, value)| limit(name, *value))
            .collect();
        let kernels = kernel_choices(adapter.plan_features())
            .iter()
            .map(|(op, kernels)| format!("{op}: {kernels}"))
            .collect();
        let memory = adapter.memory.map(bytes).into_iter().collect();
        let matrices = matrices(adapter)
            .map(|(name, state)| format!("{name}: {state}"))
            .collect();
        let gemms = adapter.gemms.iter();
        let gemms = gemms.map(|(unit, us)| format!("{} {us:.0} µs", unit.name()));
        let lists: [(&str, Vec<String>); 7] = [
            ("memory", memory),
            ("has", with(true)),
            ("has not", with(false)),
            ("limits", limits),
            ("kernels", kernels),
            ("matrices", matrices),
            ("trial", gemms.collect()),
        ];
        for (label, words) in lists.into_iter().filter(|(_, words)| !words.is_empty()) {
            for (i, line) in lines(&words).iter().enumerate() {
                let _ = writeln!(text, "      {:<8} {line}", if i == 0 { label } else { "" });
            }
        }
    }
    if !adapters.iter().any(|adapter| adapter.unusable.is_none()) {
        let _ = writeln!(text, "No GPU adapter can be used. {DRIVER_HINT}.");
    }
    let _ = writeln!(text, "{:<5} {TWIN}", "twin");
    text
}

/// Bytes as people read them: `buffer 2.0 GiB` for `buffer-bytes`.
fn limit(name: &str, value: u64) -> String {
    match name.strip_suffix("-bytes") {
        Some(name) => format!("{name} {}", bytes(value)),
        None => format!("{name} {value}"),
    }
}

/// The words with commas, in lines that fit a terminal.
fn lines(words: &[String]) -> Vec<String> {
    const WIDTH: usize = 76;
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 2 + word.len() < WIDTH => {
                line.push_str(", ");
                line.push_str(word);
            }
            Some(line) => {
                line.push(',');
                lines.push(word.clone());
            }
            None => lines.push(word.clone()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use plateau::plan::GemmUnit;

    fn adapter(unusable: Option<&str>) -> AdapterInfo {
        AdapterInfo {
            index: 0,
            name: "Example GPU".to_owned(),
            backend: "vulkan",
            kind: "discrete",
            driver: "example 1.2".to_owned(),
            memory: Some(16 << 30),
            features: vec![("subgroups", true), ("f16", false)],
            limits: vec![("max_buffer_size", 256)],
            matrices: vec![(Matrices::F16, Err("not listed".to_owned()))],
            gemms: vec![(GemmUnit::F32, 70.3), (GemmUnit::Dot4, 251.0)],
            unusable: unusable.map(str::to_owned),
        }
    }

    #[test]
    fn the_twins_come_last() {
        let text = table(&[adapter(None)]);
        assert!(
            text.starts_with("0     Example GPU (vulkan, discrete, driver example 1.2)\n"),
            "{text}"
        );
        assert!(
            text.contains("has      subgroups\n") && text.contains("has not  f16\n"),
            "{text}"
        );
        assert!(
            text.contains("linear int4: gemv_i4_subgroup / gemm_i4_f32")
                && text.contains("trial    f32 70 µs, dot4 251 µs\n"),
            "{text}"
        );
        assert!(
            text.lines()
                .last()
                .is_some_and(|line| line.starts_with("twin ")),
            "{text}"
        );
        assert!(!text.contains("To get one"), "{text}");
    }

    #[test]
    fn limits_are_read_by_people_and_lines_fit() {
        assert_eq!(limit("buffer-bytes", 256 << 20), "buffer 256.0 MiB");
        assert_eq!(limit("storage-buffers", 8), "storage-buffers 8");
        let words = vec!["x".repeat(30); 5];
        let lines = lines(&words);
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() < 80), "{lines:?}");
        assert_eq!(lines.join(" "), words.join(", "));
    }

    #[test]
    fn without_a_usable_adapter_it_says_how_to_get_one() {
        for adapters in [vec![], vec![adapter(Some("too small"))]] {
            assert!(table(&adapters).contains("mesa-vulkan-drivers"));
            assert!(listing(&adapters).hint.is_some());
        }
        assert!(table(&[adapter(Some("too small"))]).contains("cannot be used: too small"));
    }
}
