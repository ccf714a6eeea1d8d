//! When dispatches ran, as the device's own clock saw it.

/// How much of a run is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileDetail {
    /// Its beginning and its end: nothing stands between two dispatches.
    Runs,
    /// Every dispatch, with a timestamp between each two.
    Dispatches,
}

/// One run of a plan, or of some of its dispatches. Times are in ns since the profile began, by one clock for all of
/// its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunTimes {
    pub start_ns: u64,
    pub end_ns: u64,
    /// In their order; empty under [`ProfileDetail::Runs`].
    pub dispatches: Vec<DispatchTime>,
}

impl RunTimes {
    pub fn ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// One dispatch: from the end of what ran before it to its own end. So it counts the wait for what it depends on, and of
/// two that overlap the second one counts what it took longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatchTime {
    pub kernel: &'static str,
    /// As in the plan: `layers.3.mlp.down_proj`.
    pub label: String,
    pub start_ns: u64,
    pub end_ns: u64,
}

impl DispatchTime {
    pub fn ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}
