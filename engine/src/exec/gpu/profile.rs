//! Timestamps of runs and dispatches, where the adapter has them.

use super::{Names, PendingRead, PreparedDispatch, PreparedGrid, map};
use crate::exec::profile::{DispatchTime, ProfileDetail, RunTimes};
use std::ops::Range;
use wgpu::{BufferUsages, Features};

/// Features that a profile uses where an adapter has them. Without the second, which GPUs that render in tiles lack, every
/// dispatch is a pass of its own.
pub(super) const WANTED: Features = Features::TIMESTAMP_QUERY.union(INSIDE_PASSES);

const INSIDE_PASSES: Features =
    Features::TIMESTAMP_QUERY_INSIDE_PASSES.union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

/// Where timestamps stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamps {
    /// Before and after the pass.
    AroundRun,
    /// Before the first dispatch and after each.
    AfterEach,
    /// Before and after each dispatch, whose pass it is.
    AroundEach,
}

/// Notes the times of what is run.
pub(super) struct Profiler {
    stamps: Stamps,
    /// Of a tick, in ns.
    period: f64,
    pub(super) pending: Vec<PendingRun>,
}

/// A run whose timestamps are on their way.
pub(super) struct PendingRun {
    pub(super) stamped: Stamped,
    pub(super) words: PendingRead,
}

/// What the timestamps of a run mean.
pub(super) struct Stamped {
    stamps: Stamps,
    period: f64,
    names: Names,
    dispatches: Range<usize>,
}

/// The timestamps of one run that is being recorded.
pub(super) struct Recording {
    stamps: Stamps,
    sets: Vec<wgpu::QuerySet>,
    count: usize,
}

/// Timestamps of one set.
const SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize;

impl Profiler {
    /// `None` where the device was opened without timestamps.
    pub(super) fn new(
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        detail: ProfileDetail,
    ) -> Option<Self> {
        let features = device.features();
        if !features.contains(Features::TIMESTAMP_QUERY) {
            return None;
        }
        let stamps = match detail {
            ProfileDetail::Runs => Stamps::AroundRun,
            ProfileDetail::Dispatches if features.contains(INSIDE_PASSES) => Stamps::AfterEach,
            ProfileDetail::Dispatches => Stamps::AroundEach,
        };
        Some(Self {
            stamps,
            period: f64::from(queue.get_timestamp_period()),
            pending: Vec::new(),
        })
    }

    pub(super) fn record(&self, device: &wgpu::Device, dispatches: usize) -> Recording {
        let count = match self.stamps {
            Stamps::AroundRun => 2,
            Stamps::AfterEach => dispatches + 1,
            Stamps::AroundEach => 2 * dispatches,
        };
        let set = |first: usize| {
            device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: (count - first).min(SET) as u32,
            })
        };
        Recording {
            stamps: self.stamps,
            sets: (0..count).step_by(SET).map(set).collect(),
            count,
        }
    }

    /// Some dispatches of a plan were submitted; their timestamps will be in `buffer`.
    pub(super) fn submitted(
        &mut self,
        names: Names,
        dispatches: Range<usize>,
        buffer: wgpu::Buffer,
        submission: wgpu::SubmissionIndex,
    ) {
        let bytes = buffer.size();
        self.pending.push(PendingRun {
            stamped: Stamped {
                stamps: self.stamps,
                period: self.period,
                names,
                dispatches,
            },
            words: map(buffer, bytes, submission),
        });
    }
}

/// Timestamps from their words, the low one of each first.
pub(super) fn ticks(words: &[u32]) -> impl Iterator<Item = u64> {
    let pairs = words.chunks_exact(2);
    pairs.map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32)
}

impl Stamped {
    /// From the words of the timestamps; `zero` is the tick at which the profile begins.
    pub(super) fn times(&self, words: &[u32], zero: u64) -> RunTimes {
        let ns = |ticks: u64| (ticks.saturating_sub(zero) as f64 * self.period) as u64;
        let stamps: Vec<u64> = ticks(words).map(ns).collect();
        let names = &self.names[self.dispatches.clone()];
        let dispatch = |(i, (kernel, label)): (usize, &(&'static str, String))| {
            let (start, end) = match self.stamps {
                Stamps::AroundEach => (2 * i, 2 * i + 1),
                Stamps::AfterEach | Stamps::AroundRun => (i, i + 1),
            };
            DispatchTime {
                kernel,
                label: label.clone(),
                start_ns: stamps[start],
                end_ns: stamps[end],
            }
        };
        RunTimes {
            start_ns: stamps.first().copied().unwrap_or(0),
            end_ns: stamps.last().copied().unwrap_or(0),
            dispatches: match self.stamps {
                Stamps::AroundRun => Vec::new(),
                Stamps::AfterEach | Stamps::AroundEach => {
                    names.iter().enumerate().map(dispatch).collect()
                }
            },
        }
    }
}

impl Recording {
    fn at(&self, stamp: usize) -> (&wgpu::QuerySet, u32) {
        (&self.sets[stamp / SET], (stamp % SET) as u32)
    }

    fn pass<'e>(
        &self,
        encoder: &'e mut wgpu::CommandEncoder,
        around: Option<usize>,
    ) -> wgpu::ComputePass<'e> {
        let timestamp_writes = around.map(|first| {
            // Both lie in one set: a set holds an even number.
            let (query_set, index) = self.at(first);
            wgpu::ComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: Some(index),
                end_of_pass_write_index: Some(index + 1),
            }
        });
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes,
        })
    }

    /// The dispatches, with their timestamps.
    pub(super) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        dispatches: &[PreparedDispatch],
    ) {
        match self.stamps {
            Stamps::AroundRun => {
                let mut pass = self.pass(encoder, Some(0));
                for dispatch in dispatches {
                    dispatch.encode(&mut pass);
                }
            }
            Stamps::AfterEach => {
                let mut pass = self.pass(encoder, None);
                let stamp = |pass: &mut wgpu::ComputePass<'_>, index| {
                    let (set, index) = self.at(index);
                    pass.write_timestamp(set, index);
                };
                stamp(&mut pass, 0);
                for (i, dispatch) in dispatches.iter().enumerate() {
                    dispatch.encode(&mut pass);
                    stamp(&mut pass, i + 1);
                }
            }
            Stamps::AroundEach => {
                for (i, dispatch) in dispatches.iter().enumerate() {
                    dispatch.encode(&mut self.pass(encoder, Some(2 * i)));
                }
            }
        }
    }

    /// Copies the timestamps to a buffer that can be mapped.
    pub(super) fn resolve(
        &self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
    ) -> wgpu::Buffer {
        let size = 8 * self.count as u64;
        let buffer = |label, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let resolved = buffer(
            "timestamps",
            BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC,
        );
        let staging = buffer(
            "timestamps to read",
            BufferUsages::MAP_READ | BufferUsages::COPY_DST,
        );
        for (i, set) in self.sets.iter().enumerate() {
            let count = (self.count - i * SET).min(SET) as u32;
            encoder.resolve_query_set(set, 0..count, &resolved, 8 * (i * SET) as u64);
        }
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, size);
        staging
    }
}

impl PreparedDispatch {
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        match &self.grid {
            PreparedGrid::Fixed([x, y, z]) => pass.dispatch_workgroups(*x, *y, *z),
            PreparedGrid::Indirect(buffer, offset) => {
                pass.dispatch_workgroups_indirect(buffer, *offset);
            }
        }
    }
}
