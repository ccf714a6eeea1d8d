//! How a plan runs: on a GPU, or through the twins.

use std::str::FromStr;

/// Which device to use: `--device`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The best adapter: discrete, then integrated, then a software driver; without any, the twins.
    #[default]
    Auto,
    /// The CPU twins.
    Twin,
    /// The index that [`adapters`] gives.
    Index(usize),
    /// Part of an adapter's name, in any case.
    Name(String),
}

impl FromStr for DeviceChoice {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "twin" | "cpu" => Self::Twin,
            other => other
                .parse()
                .map_or_else(|_| Self::Name(s.to_owned()), Self::Index),
        })
    }
}

/// One GPU as a user sees it.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    pub index: usize,
    pub name: String,
    /// `vulkan`, `metal`, `dx12`
    pub backend: &'static str,
    /// `discrete`, `integrated`, `virtual`, `software`, `other`
    pub kind: &'static str,
    pub driver: String,
    /// Features and limits that matter here, as (name, value) in a fixed order.
    pub features: Vec<(&'static str, bool)>,
    pub limits: Vec<(&'static str, u64)>,
    /// Why it cannot be used, if so: a limit under what the kernels need, say.
    pub unusable: Option<String>,
}

/// An error of a device: which one, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("no GPU adapter was found")]
    NoAdapter,
    #[error("no device '{wanted}'; there are: {known}")]
    Unknown { wanted: String, known: String },
    #[error("device '{wanted}' matches several: {matches}")]
    Ambiguous { wanted: String, matches: String },
    #[error("{name}: cannot be opened: {reason}")]
    Refused { name: String, reason: String },
    #[error("{label}: {bytes} bytes do not fit one buffer of {name}, which holds {limit} at most")]
    TooLarge {
        name: String,
        label: String,
        bytes: u64,
        limit: u64,
    },
    #[error("{name}: out of device memory at '{label}' ({bytes} bytes)")]
    OutOfMemory {
        name: String,
        label: String,
        bytes: u64,
    },
    #[error("{name}: the device was lost: {reason}")]
    Lost { name: String, reason: String },
    #[error("{name}: the driver failed: {reason}")]
    Driver { name: String, reason: String },
}

/// The GPUs of this machine, best first; one seen through two backends is listed once.
pub async fn adapters() -> Vec<AdapterInfo> {
    Vec::new()
}

/// Runs plans: the GPU or the twins.
pub struct Executor;

/// An opened device, and one line for the user that says which it is and why.
pub struct Opened {
    pub executor: Executor,
    pub notice: String,
}

/// Opens a device.
pub async fn open(_choice: &DeviceChoice) -> Result<Opened, DeviceError> {
    Err(DeviceError::NoAdapter)
}
