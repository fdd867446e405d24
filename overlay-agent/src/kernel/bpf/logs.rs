//! Log lines of programs that were built to log.

use aya_log::{EbpfLogger, Error};
use overlay_ebpf::abi::program;
use tokio::io::{Interest, unix::AsyncFd};

use super::{error::BpfError, pinned::Pinned};

/// Their map in errors.
const MAP: &str = "AYA_LOGS";

/// Reader of the log lines, which the programs of one load share. As with events, a line goes to one
/// reader.
pub struct Logs<T> {
    logger: AsyncFd<EbpfLogger<T>>,
    /// The program by which the map was found.
    program: u32,
}

impl<T: log::Log> Logs<T> {
    /// Lines go to `to`, also those that nobody has read yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`BpfError::NoLogs`] if the programs were built without logging.
    pub fn open(pinned: &Pinned, to: T) -> Result<Self, BpfError> {
        // Any program leads to the map; this one is in every data plane.
        let name = program::UNDERLAY_AUDIT;
        let program = pinned.id(name)?;
        let logger =
            EbpfLogger::init_from_id_with_logger(program, to).map_err(|error| match error {
                Error::MapNotFound => BpfError::NoLogs(pinned.root().to_path_buf()),
                Error::MapError(source) => BpfError::Map {
                    attempt: "open",
                    map: MAP,
                    source,
                },
                Error::ProgramNotFound => BpfError::Unsteady(MAP),
                Error::ProgramError(source) => BpfError::Program {
                    attempt: "look at",
                    program: name,
                    source,
                },
            })?;
        // SAFETY: the logger owns the descriptor of its ring buffer, never changes it, and closes it
        // when it is dropped, which `AsyncFd` does after it has deregistered it.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(|error| BpfError::Map {
                attempt: "wait for",
                map: MAP,
                source: error.into_parts().1.into(),
            })?;
        Ok(Self { logger, program })
    }

    /// Whether these are the programs that log here: others, of another load, log elsewhere.
    pub fn is_of(&self, pinned: &Pinned) -> bool {
        pinned.program_id(program::UNDERLAY_AUDIT) == Some(self.program)
    }

    /// Hands over what there is, and returns once there is more. Dropping the future loses nothing.
    pub async fn more(&mut self) -> Result<(), BpfError> {
        self.logger.get_mut().flush();
        let mut ready = self
            .logger
            .readable_mut()
            .await
            .map_err(|source| BpfError::Map {
                attempt: "wait for",
                map: MAP,
                source: source.into(),
            })?;
        // Readiness is an edge: the next call looks once more before it waits.
        ready.clear_ready();
        Ok(())
    }
}
