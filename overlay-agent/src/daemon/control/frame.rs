//! Messages on a stream: the length of each as u32, big-endian, then the message
//! ([`overlay_cluster::control::message`]).
//!
//! The first two bytes of a message say how long it may be. A longer one ends the connection before
//! room is made for it, and no more room is made at once than [`ROOM`]: what a peer promises to send
//! costs nothing.

use std::{io, time::Duration};

use overlay_cluster::control::message::{self, HEAD, Message, MessageError};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, timeout, timeout_at},
};
use zeroize::Zeroizing;

use super::limits::Pace;

/// Bytes of the length.
pub const HEADER: usize = 4;

/// Bytes for which room is made at once. Every message that may hold secrets fits, so that no
/// growing buffer leaves copies of them.
pub const ROOM: usize = 512 * 1024;

/// Why no message came or went. The stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// What came is no message, or is too long.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Shorter than any message.
    #[error("a message of {len} bytes was announced, and none is so short")]
    Short {
        /// As announced.
        len: usize,
    },
    /// Nothing came.
    #[error("the peer was silent for {0:?}")]
    Silent(Duration),
    /// The message did not come or go in time.
    #[error("a message did not pass within {0:?}")]
    Slow(Duration),
}

/// Sends one message.
pub async fn send<M: Message>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &M,
    pace: Pace,
) -> Result<(), FrameError> {
    let body = message::encode(message)?;
    let len = u32::try_from(body.len()).map_err(|_| MessageError::TooLong {
        what: M::NAME,
        len: body.len(),
        limit: u32::MAX as usize,
    })?;
    let time = pace.time(body.len());
    timeout(time, async {
        stream.write_all(&len.to_be_bytes()).await?;
        stream.write_all(&body).await?;
        stream.flush().await
    })
    .await
    .map_err(|_| FrameError::Slow(time))??;
    Ok(())
}

/// The next message; nothing, if the peer ended the connection instead of beginning one. It may be
/// silent for `idle` before. Not to be dropped half-way: the stream would be of no more use.
pub async fn receive<M: Message>(
    stream: &mut (impl AsyncRead + Unpin),
    idle: Duration,
    pace: Pace,
) -> Result<Option<M>, FrameError> {
    let mut header = [0; HEADER];
    let first = timeout(idle, stream.read(&mut header[..1]))
        .await
        .map_err(|_| FrameError::Silent(idle))?;
    match first {
        Ok(0) => return Ok(None),
        // The peer is gone without a goodbye. Nothing was begun, so nothing is cut short.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let begun = Instant::now();
    let slow = |time| move |_| FrameError::Slow(time);

    timeout_at(begun + pace.base, stream.read_exact(&mut header[1..]))
        .await
        .map_err(slow(pace.base))??;
    let len = u32::from_be_bytes(header) as usize;
    if len < HEAD {
        return Err(FrameError::Short { len });
    }
    let mut head = [0; HEAD];
    timeout_at(begun + pace.base, stream.read_exact(&mut head))
        .await
        .map_err(slow(pace.base))??;
    let limit = message::limit::<M>(head)?;
    if len > limit {
        return Err(MessageError::TooLong {
            what: M::NAME,
            len,
            limit,
        }
        .into());
    }

    let time = pace.time(len);
    let mut body = Zeroizing::new(Vec::with_capacity(len.min(ROOM)));
    body.extend_from_slice(&head);
    timeout_at(begun + time, read_to(stream, &mut body, len))
        .await
        .map_err(slow(time))??;
    Ok(Some(message::decode(&body)?))
}

/// Reads until `body` has `len` bytes.
async fn read_to(
    stream: &mut (impl AsyncRead + Unpin),
    body: &mut Vec<u8>,
    len: usize,
) -> io::Result<()> {
    let mut rest = stream.take((len - body.len()) as u64);
    while body.len() < len {
        if rest.read_buf(body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use overlay_cluster::control::{
        member::{MemberRequest, MemberResponse},
        renew::RenewRequest,
    };
    use tokio::io::duplex;

    use super::*;

    const PACE: Pace = Pace {
        base: Duration::from_millis(200),
        rate: 1 << 20,
    };

    async fn received(bytes: &[u8]) -> Result<Option<MemberRequest>, FrameError> {
        let (mut near, mut far) = duplex(1 << 16);
        far.write_all(bytes).await.expect("room");
        drop(far);
        receive(&mut near, PACE.base, PACE).await
    }

    #[tokio::test]
    async fn messages_come_as_they_went_one_after_the_other() {
        let (mut near, mut far) = duplex(64);
        let messages = [
            MemberRequest::PullView { have: None },
            MemberRequest::Sync(vec![7; 100_000]),
        ];
        let sent = messages.clone();
        let sender = tokio::spawn(async move {
            for message in &sent {
                send(&mut far, message, PACE).await.expect("goes");
            }
        });
        for message in messages {
            let came = receive(&mut near, PACE.base, PACE).await.expect("comes");
            assert_eq!(came, Some(message));
        }
        sender.await.expect("sends");
        let end = receive::<MemberRequest>(&mut near, PACE.base, PACE).await;
        assert!(matches!(end, Ok(None)));
    }

    #[tokio::test]
    async fn what_is_announced_too_long_or_too_short_is_refused_unread() {
        // A renewal of 64 MiB.
        let error = received(&[4, 0, 0, 0, 1, 2]).await.expect_err("too long");
        assert!(
            matches!(
                error,
                FrameError::Message(MessageError::TooLong { limit: 1024, .. })
            ),
            "{error}"
        );
        for len in [0, 1] {
            let error = received(&[0, 0, 0, len, 1, 2])
                .await
                .expect_err("too short");
            assert!(matches!(error, FrameError::Short { .. }), "{error}");
        }
        let error = received(&[0, 0, 0, 9, 1, 99]).await.expect_err("no kind");
        assert!(matches!(
            error,
            FrameError::Message(MessageError::Kind { kind: 99, .. })
        ));
    }

    #[tokio::test]
    async fn a_message_that_ends_early_is_an_error() {
        let error = received(&[0, 0, 0, 9, 1, 5, 7]).await.expect_err("cut");
        assert!(matches!(error, FrameError::Io(_)), "{error}");
        let error = received(&[0, 0]).await.expect_err("cut");
        assert!(matches!(error, FrameError::Io(_)), "{error}");
        assert!(matches!(received(&[]).await, Ok(None)));
    }

    #[tokio::test]
    async fn a_byte_now_and_then_is_not_enough() {
        let (mut near, mut far) = duplex(64);
        let slow = tokio::spawn(async move {
            for byte in [0, 0, 0, 200, 1, 5].into_iter().chain([0; 300]) {
                tokio::time::sleep(PACE.base / 4).await;
                if far.write_all(&[byte]).await.is_err() {
                    break;
                }
            }
        });
        let begun = Instant::now();
        let came = receive::<MemberRequest>(&mut near, PACE.base, PACE).await;
        assert!(matches!(came, Err(FrameError::Slow(_))));
        assert!(begun.elapsed() < PACE.base * 3);
        slow.abort();
    }

    #[tokio::test]
    async fn silence_and_a_peer_that_does_not_read_end_in_time() {
        let (mut near, _far) = duplex(64);
        let came = receive::<MemberResponse>(&mut near, PACE.base, PACE).await;
        assert!(matches!(came, Err(FrameError::Silent(_))));
        let message = MemberRequest::Sync(vec![7; 100_000]);
        let went = send(&mut near, &message, PACE).await;
        assert!(matches!(went, Err(FrameError::Slow(_))));
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_sent() {
        let (mut near, _far) = duplex(64);
        let request = RenewRequest::Renew {
            request: vec![0; 5000],
        };
        let went = send(&mut near, &request, PACE).await;
        assert!(matches!(
            went,
            Err(FrameError::Message(MessageError::TooLong { .. }))
        ));
    }
}
