//! The agent's side of the [local API](crate::api): HTTP/1.1 over a Unix socket.
//!
//! Who may connect is said twice: by the mode of the socket, and by the credentials that the kernel
//! gives of each caller. What is asked for is answered by a [`Backend`].

mod backend;
mod body;
mod caller;
mod limits;
#[cfg(test)]
mod noise;
mod routes;
mod server;
mod socket;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use backend::{Answer, Backend, EventStream};
pub use body::parse;
pub use caller::{Access, Caller};
pub use limits::Limits;
pub use server::Server;
pub use socket::{Socket, SocketError};
