//! Sampled drops, as they happen.

use aya::maps::{Map, MapData, RingBuf};
use futures_util::{Stream, stream};
use overlay_ebpf::abi::{DropEvent, map};
use tokio::io::{Interest, unix::AsyncFd};

use super::{error::BpfError, maps::open_map, pin_root::PinRoot};

/// Reader of `events`. The ring buffer has one read position for everybody: a second reader takes
/// records from the first.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Must be called within a tokio runtime.
    pub(super) fn open(pins: &PinRoot) -> Result<Self, BpfError> {
        let ring = Map::from_map_data(open_map(pins, map::EVENTS)?)
            .and_then(RingBuf::try_from)
            .map_err(|source| BpfError::Map {
                attempt: "open",
                map: map::EVENTS,
                source,
            })?;
        // SAFETY: the ring buffer owns its descriptor, never changes it, and closes it when it is
        // dropped, which `AsyncFd` does after it has deregistered it.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(
            |error| BpfError::Map {
                attempt: "wait for",
                map: map::EVENTS,
                source: error.into_parts().1.into(),
            },
        )?;
        Ok(Self { ring })
    }

    /// The next event. An invalid record is consumed, too, so that the next call goes on after it.
    pub async fn next(&mut self) -> Result<DropEvent, BpfError> {
        loop {
            if let Some(record) = self.ring.get_mut().next() {
                return bytemuck::checked::try_pod_read_unaligned(&record)
                    .map_err(|error| BpfError::InvalidEvent(error.to_string()));
            }
            let mut ready = self
                .ring
                .readable_mut()
                .await
                .map_err(|source| BpfError::Map {
                    attempt: "wait for",
                    map: map::EVENTS,
                    source: source.into(),
                })?;
            // Readiness is an edge: look once more after clearing it, then wait.
            ready.clear_ready();
        }
    }

    /// The events as a stream without end.
    pub fn into_stream(self) -> impl Stream<Item = Result<DropEvent, BpfError>> {
        stream::unfold(self, |mut events| async move {
            let event = events.next().await;
            Some((event, events))
        })
    }
}
