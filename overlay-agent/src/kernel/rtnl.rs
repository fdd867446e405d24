//! One rtnetlink connection, and its errors in words.

use std::io;

use rtnetlink::packet_core::NetlinkPayload;

/// A connection to the network namespace in which it was opened.
///
/// It stays with that namespace wherever its requests are made from.
#[derive(Debug, Clone)]
pub struct Handle(rtnetlink::Handle);

impl Handle {
    /// Opens a connection in the calling thread's namespace, served by the current tokio runtime
    /// until the last clone of the handle is dropped.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    pub(super) fn inner(&self) -> &rtnetlink::Handle {
        &self.0
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open an rtnetlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel answered with an error number.
    #[error("cannot {action}: the kernel answered {errno}{}", hint(.errno))]
    Refused { action: String, errno: io::Error },
    #[error("cannot {action}: {reason}")]
    Protocol { action: String, reason: String },
}

impl Error {
    /// The error number, if it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(errno) | Self::Refused { errno, .. } => errno.raw_os_error(),
            Self::Protocol { .. } => None,
        }
    }

    pub(super) fn new(action: impl Into<String>, error: rtnetlink::Error) -> Self {
        let action = action.into();
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused {
                action,
                errno: io::Error::from_raw_os_error(-message.raw_code()),
            },
            rtnetlink::Error::UnexpectedMessage(message) => Self::Protocol {
                action,
                reason: match message.payload {
                    NetlinkPayload::Overrun(_) => "the answer was lost (overrun)".to_owned(),
                    _ => format!("unexpected answer of type {}", message.header.message_type),
                },
            },
            other => Self::Protocol {
                action,
                reason: other.to_string(),
            },
        }
    }
}

/// What the operator can do about the error numbers that have one usual cause.
fn hint(errno: &io::Error) -> &'static str {
    match errno.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            " (root, or CAP_NET_ADMIN in this network namespace, is needed)"
        }
        Some(libc::EOPNOTSUPP) => " (the kernel lacks this feature or its module)",
        _ => "",
    }
}

/// A result in which one error number is no error.
pub(super) trait Tolerate<T> {
    /// `Ok(None)` where the kernel answered one of `errnos`.
    fn tolerate(self, action: impl FnOnce() -> String, errnos: &[i32]) -> Result<Option<T>, Error>;
}

impl<T> Tolerate<T> for Result<T, rtnetlink::Error> {
    fn tolerate(self, action: impl FnOnce() -> String, errnos: &[i32]) -> Result<Option<T>, Error> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(rtnetlink::Error::NetlinkError(message))
                if errnos.contains(&-message.raw_code()) =>
            {
                Ok(None)
            }
            Err(error) => Err(Error::new(action(), error)),
        }
    }
}
