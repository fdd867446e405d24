//! The netlink socket: requests in batches, dumps, and errors that quote no request.

use std::{fmt, io, slice};

use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_XFRM,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Error,
    wire::{self, Message, Request, attributes, messages, u32_at},
};

/// The kernel never sends a larger datagram (`netlink_dump` in net/netlink/af_netlink.c: 32 KiB).
const RECEIVE_LEN: usize = 64 * 1024;
/// Requests per system call: their answers must fit the default receive buffer of 208 KiB, in
/// which each takes about 1 KiB.
const BATCH: usize = 64;
/// Bytes per system call, well below the default send buffer.
const BATCH_BYTES: usize = 64 * 1024;
/// How often a list is read again that changed while it was read.
const DUMP_ATTEMPTS: usize = 8;

const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
/// Explanation in words (`NLMSGERR_ATTR_MSG`).
const NLMSGERR_ATTR_MSG: u16 = 1;

pub(super) struct Socket {
    socket: TokioSocket,
    sequence: u32,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Socket(NETLINK_XFRM)")
    }
}

/// Why a request failed.
pub(super) enum Refusal {
    Kernel {
        errno: io::Error,
        said: Option<String>,
    },
    Other(Error),
}

impl Refusal {
    pub(super) fn into_error(self, action: impl FnOnce() -> String) -> Error {
        match self {
            Self::Kernel { errno, said } => Error::Refused {
                action: action(),
                errno,
                said,
            },
            Self::Other(error) => error,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_XFRM)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
        // Else an error quotes the whole request, and with it the key.
        socket.socket_ref().set_cap_ack(true)?;
        socket.socket_ref().set_ext_ack(true)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends the requests, many per system call; the answers are in their order.
    pub(super) async fn transact(
        &mut self,
        mut requests: Vec<Request>,
    ) -> Vec<Result<(), Refusal>> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests.as_mut_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take(BATCH)
                .take_while(|request| {
                    bytes += request.len();
                    bytes <= BATCH_BYTES
                })
                .count()
                .max(1);
            let (batch, later) = rest.split_at_mut(count);
            answers.extend(self.transact_batch(batch).await);
            rest = later;
        }
        answers
    }

    async fn transact_batch(&mut self, batch: &mut [Request]) -> Vec<Result<(), Refusal>> {
        let mut answers: Vec<Option<Result<(), Refusal>>> = batch.iter().map(|_| None).collect();
        let mut exchanged = self.exchange(batch, &mut answers).await;
        if exchanged.as_ref().is_err_and(answers_were_lost) {
            exchanged = self.repeat(batch, &mut answers).await;
        }
        if let Err(error) = exchanged {
            let kind = error.kind();
            let mut error = Some(error);
            for answer in &mut answers {
                if answer.is_none() {
                    let error = error.take().unwrap_or_else(|| kind.into());
                    *answer = Some(Err(Error::Socket(error).into()));
                }
            }
        }
        answers.into_iter().flatten().collect()
    }

    /// Sends those once more that were not answered, one at a time: one answer has room. They may have
    /// been carried out: what is repeated finds the object as it is wanted, or finds none to delete.
    async fn repeat(
        &mut self,
        batch: &mut [Request],
        answers: &mut [Option<Result<(), Refusal>>],
    ) -> io::Result<()> {
        for (request, answer) in batch.iter_mut().zip(answers) {
            if answer.is_none() {
                self.exchange(slice::from_mut(request), slice::from_mut(answer))
                    .await?;
            }
        }
        Ok(())
    }

    /// Sends the requests by one system call and puts the answers in their places.
    async fn exchange(
        &mut self,
        batch: &mut [Request],
        answers: &mut [Option<Result<(), Refusal>>],
    ) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let total = batch.iter().map(Request::len).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(total));
        for request in batch.iter_mut() {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend_from_slice(request.bytes_with_sequence(self.sequence));
        }
        self.send(&bytes).await?;
        let mut buffer = Buffer::new();
        let mut lost = None;
        while answers.iter().any(Option::is_none) {
            let received = match &lost {
                None => self.receive(&mut buffer).await,
                // The kernel has answered before the send returned: nothing more comes.
                Some(_) => self.receive_now(&mut buffer),
            };
            let datagram = match received {
                Ok(datagram) => datagram,
                Err(error) if answers_were_lost(&error) => {
                    lost = Some(error);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(lost.unwrap_or(error));
                }
                Err(error) => return Err(error),
            };
            for message in messages(datagram) {
                let message = message.map_err(io::Error::other)?;
                let Some(answer) = answers.get_mut(message.sequence.wrapping_sub(first) as usize)
                else {
                    // The answer to a request whose caller has given up.
                    continue;
                };
                if message.kind == NLMSG_ERROR {
                    *answer = Some(acknowledgement(&message));
                }
            }
        }
        Ok(())
    }

    /// Asks for one object.
    pub(super) async fn get<T>(
        &mut self,
        mut request: Request,
        parse: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(request.bytes_with_sequence(sequence))
            .await
            .map_err(Error::Socket)?;
        let mut buffer = Buffer::new();
        loop {
            let datagram = self.receive(&mut buffer).await.map_err(Error::Socket)?;
            for message in messages(datagram) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                if message.kind == NLMSG_ERROR {
                    acknowledgement(&message)?;
                    continue;
                }
                return Ok(parse(message.body)?);
            }
        }
    }

    /// What `parse` makes of every object of a kind, and keeps. What disappears or appears meanwhile makes it read
    /// again.
    pub(super) async fn dump<T>(
        &mut self,
        kind: u16,
        mut parse: impl FnMut(&[u8]) -> Result<Option<T>, Error>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(kind, &mut parse).await? {
                return Ok(found);
            }
        }
        Err(Error::Unstable)
    }

    /// `None` if the list changed while it was read.
    async fn dump_once<T>(
        &mut self,
        kind: u16,
        parse: &mut impl FnMut(&[u8]) -> Result<Option<T>, Error>,
    ) -> Result<Option<Vec<T>>, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut request = Request::without_body(kind, NLM_F_DUMP);
        self.send(request.bytes_with_sequence(sequence))
            .await
            .map_err(Error::Socket)?;
        let mut found = Vec::new();
        let mut stable = true;
        let mut buffer = Buffer::new();
        loop {
            let datagram = self.receive(&mut buffer).await.map_err(Error::Socket)?;
            for message in messages(datagram) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                stable &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(stable.then_some(found)),
                    NLMSG_ERROR => acknowledgement(&message)
                        .map_err(|refusal| refusal.into_error(|| "list XFRM objects".to_owned()))?,
                    _ => found.extend(parse(message.body)?),
                }
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A datagram socket sends everything or nothing.
        self.socket.send(bytes).await.map(|_| ())
    }

    async fn receive<'a>(&mut self, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
        let mut free = buffer.erased();
        self.socket.recv(&mut free).await?;
        let left = free.len();
        buffer.datagram(left)
    }

    /// What has come already.
    fn receive_now<'a>(&mut self, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
        let mut free = buffer.erased();
        self.socket
            .socket_ref()
            .recv(&mut free, libc::MSG_DONTWAIT)?;
        let left = free.len();
        buffer.datagram(left)
    }
}

/// The receive buffer had no room for an answer, or the kernel no memory.
fn answers_were_lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Room for one datagram. A state tells its key, so what was received is erased before the next and at
/// the end: by words, and not what was never written, because an answer of 36 bytes comes to each
/// request.
struct Buffer {
    words: Vec<u64>,
    used: usize,
}

impl Buffer {
    fn new() -> Self {
        Self {
            words: vec![0; RECEIVE_LEN / size_of::<u64>()],
            used: 0,
        }
    }

    fn erase(&mut self) {
        self.words[..self.used.div_ceil(size_of::<u64>())].zeroize();
        self.used = 0;
    }

    fn erased(&mut self) -> &mut [u8] {
        self.erase();
        bytemuck::cast_slice_mut(&mut self.words)
    }

    /// What was received, if it left so much free.
    fn datagram(&mut self, left: usize) -> io::Result<&[u8]> {
        self.used = RECEIVE_LEN - left;
        if self.used == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(&bytemuck::cast_slice(&self.words)[..self.used])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.erase();
    }
}

pub(super) const ACKNOWLEDGE: u16 = NLM_F_ACK;

/// Reads `struct nlmsgerr` and, behind the quoted header, the kernel's explanation.
fn acknowledgement(message: &Message<'_>) -> Result<(), Refusal> {
    let code = u32_at(message.body, 0)
        .ok_or_else(|| wire::malformed("an acknowledgement", "it is empty"))? as i32;
    if code == 0 {
        return Ok(());
    }
    let quoted = 4 + wire::HEADER_LEN;
    let explained = NLM_F_ACK_TLVS | NLM_F_CAPPED;
    let said = (message.flags & explained == explained)
        .then(|| message.body.get(quoted..))
        .flatten()
        .and_then(|rest| {
            attributes(rest)
                .filter_map(Result::ok)
                .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        })
        .map(|(_, text)| {
            String::from_utf8_lossy(text)
                .trim_end_matches('\0')
                .to_owned()
        });
    Err(Refusal::Kernel {
        errno: io::Error::from_raw_os_error(-code),
        said,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::policies, *};
    use crate::{daemon::node::testing::in_namespace, dataplane::objects::PolicyKey};

    #[test]
    fn what_was_received_is_erased_before_the_next_and_no_more_than_that_is_touched() {
        let mut buffer = Buffer::new();
        buffer.erased()[..9].fill(0x5a);
        assert_eq!(buffer.datagram(RECEIVE_LEN - 9).unwrap(), [0x5a; 9]);
        assert!(buffer.erased().iter().all(|byte| *byte == 0));
        assert!(buffer.datagram(RECEIVE_LEN).is_err());
    }

    #[test]
    fn requests_whose_answers_found_no_room_are_asked_again() {
        in_namespace(async {
            let mut socket = Socket::open().unwrap();
            // Room for a few answers.
            socket.socket.socket_ref().set_rx_buf_sz(1_u32).unwrap();
            let key = |mark| PolicyKey {
                source: "192.0.2.1".parse().unwrap(),
                destination: None,
                udp_port: Some(4789),
                mark,
                mark_mask: u32::MAX,
            };
            let requests = (0..100).map(|mark| policies::delete(&key(mark)).request);
            let answers = socket.transact(requests.collect()).await;
            assert_eq!(answers.len(), 100);
            for answer in answers {
                let Err(Refusal::Kernel { errno, .. }) = answer else {
                    panic!("there is no such policy");
                };
                assert_eq!(errno.raw_os_error(), Some(libc::ENOENT));
            }
        });
    }

    #[test]
    fn refusal_says_what_the_kernel_said_and_nothing_of_the_request() {
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend([0xab; wire::HEADER_LEN]);
        body.extend(15u16.to_ne_bytes());
        body.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        body.extend(b"Bad mode!!\0\0");
        let message = Message {
            kind: NLMSG_ERROR,
            flags: NLM_F_CAPPED | NLM_F_ACK_TLVS,
            sequence: 1,
            body: &body,
        };
        let Err(refusal) = acknowledgement(&message) else {
            panic!("an error was taken for success");
        };
        let words = refusal.into_error(|| "install SA x".to_owned()).to_string();
        assert!(words.contains("install SA x"), "{words}");
        assert!(words.contains("(Bad mode!!)"), "{words}");
        assert!(!words.contains("171") && !words.contains("ab"), "{words}");
    }

    #[test]
    fn quoted_request_is_never_read_as_an_explanation() {
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend([0; wire::HEADER_LEN]);
        body.extend(8u16.to_ne_bytes());
        body.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        body.extend(b"key\0");
        let message = Message {
            kind: NLMSG_ERROR,
            flags: NLM_F_ACK_TLVS,
            sequence: 1,
            body: &body,
        };
        let Err(Refusal::Kernel { said, .. }) = acknowledgement(&message) else {
            panic!("an error was taken for success");
        };
        assert_eq!(said, None);
    }
}
