//! The error that wraps each module's own.

use crate::checkpoint::LoadError;
use crate::exec::DeviceError;
use crate::session::SessionError;

/// Whatever can go wrong between a checkpoint and a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Session(#[from] SessionError),
}
