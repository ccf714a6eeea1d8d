//! `--verbose`: what a step is made of.

use super::profile::role;
use plateau::model::{Model, StepShape, planned_pages};
use plateau::ops::Sampling;
use plateau::plan::Plan;
use std::collections::BTreeMap;

/// A line for a decode step, for one with keys split over workgroups where the context is long enough, and for a prompt of
/// `max_rows` tokens, and the dispatches of one layer of each.
pub fn describe(model: &Model, sequences: u32, max_rows: u32) -> String {
    let sampling = Sampling {
        temperature: None,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        seed: 0,
    };
    let decode = |pages: u32| StepShape::Decode {
        rows: sequences,
        pages,
        sampling,
    };
    let prompt = StepShape::Rows {
        rows: max_rows,
        tiles: plateau_shaders::attention::max_tiles(max_rows, 1),
        logits: 1,
    };
    let (short, long) = (
        planned_pages(1),
        planned_pages(model.capacity.table_stride()),
    );
    let mut steps = vec![(format!("decode step of {sequences}"), decode(short))];
    if long > short {
        let what = format!("decode step of {sequences} after more than {short} pages of keys");
        steps.push((what, decode(long)));
    }
    steps.push((format!("prompt step of {max_rows}"), prompt));
    let lines = steps
        .iter()
        .map(|(what, shape)| of_plan(what, &model.step(shape).plan));
    lines.collect::<Vec<_>>().join("\n")
}

/// The layer that a label names first.
fn layer(label: &str) -> Option<u32> {
    let mut parts = label.split('.');
    parts.find(|part| *part == "layers")?;
    parts.next()?.parse().ok()
}

fn of_plan(what: &str, plan: &Plan) -> String {
    let mut layers: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for dispatch in &plan.dispatches {
        if let Some(layer) = layer(&dispatch.label) {
            let line = format!("{} ({})", dispatch.kernel.name, role(&dispatch.label));
            layers.entry(layer).or_default().push(line);
        }
    }
    let counts = layers.values().map(Vec::len);
    let (least, most) = (counts.clone().min(), counts.clone().max());
    let per_layer = match (least, most) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (Some(count), _) => count.to_string(),
        (None, _) => "0".to_owned(),
    };
    let outside = plan.dispatches.len() - counts.sum::<usize>();
    let first = layers.values().next().map_or("", |_| "; the first one: ");
    let kernels = layers
        .values()
        .next()
        .map_or_else(String::new, |lines| lines.join(", "));
    format!(
        "{what}: {} dispatches, {per_layer} in each of {} layers, {outside} outside{first}{kernels}",
        plan.dispatches.len(),
        layers.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_of_a_label_is_its_number() {
        assert_eq!(layer("layers.3.input_layernorm"), Some(3));
        let joined = "model.layers.12.mlp.gate_proj+model.layers.12.mlp.up_proj";
        assert_eq!(layer(joined), Some(12));
        assert_eq!(layer("lm_head"), None);
        assert_eq!(layer("layers"), None);
    }
}
