//! Calls another manager.

use std::{net::SocketAddr, time::Duration};

use overlay_cluster::{
    control::raft::{RaftRequest, RaftResponse},
    id::NodeId,
};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{
    client::{Client, ClientError, certificates, exchange, goodbye, open},
    limits::ClientLimits,
};
use crate::daemon::tls::{self, Service, Tls, server_name};

/// A manager answers at once, or after one write to its disk.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection between managers, for one request after the other.
pub struct RaftConnection {
    stream: TlsStream<TcpStream>,
    certificates: Vec<CertificateDer<'static>>,
    address: SocketAddr,
    tls: Tls,
    limits: ClientLimits,
    /// A request was begun and its answer not read.
    broken: bool,
}

impl Client {
    /// Connects with the manager `node`, and with no other that may answer at `address`.
    pub async fn connect_manager(
        &self,
        address: SocketAddr,
        node: NodeId,
    ) -> Result<RaftConnection, ClientError> {
        let limits = ClientLimits {
            answer: ANSWER.min(self.limits.answer),
            ..self.limits
        };
        let way = self.way(address);
        let stream = open(&self.raft, way, server_name(node), limits).await?;
        let connection = RaftConnection {
            certificates: certificates(&stream),
            stream,
            address,
            tls: self.tls().clone(),
            limits,
            broken: false,
        };
        connection.check()?;
        Ok(connection)
    }
}

impl RaftConnection {
    /// Whether another request can be made.
    pub const fn is_usable(&self) -> bool {
        !self.broken
    }

    pub async fn request(&mut self, request: &RaftRequest) -> Result<RaftResponse, ClientError> {
        if self.broken {
            return Err(ClientError::Broken);
        }
        self.check()?;
        // Also if this future is dropped half-way.
        self.broken = true;
        let response = exchange(&mut self.stream, request, self.address, self.limits).await?;
        self.broken = false;
        Ok(response)
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        goodbye(&mut self.stream).await;
    }

    /// The peer must be a manager still: it is told secrets.
    fn check(&self) -> Result<(), ClientError> {
        let now = self.tls.now().ok_or(ClientError::NoClock)?;
        let members = &**self.tls.members();
        tls::peer(Some(&self.certificates), Service::Raft, members, now)?;
        Ok(())
    }
}
