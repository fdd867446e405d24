//! The netlink socket: requests in batches, dumps, and errors that quote no request.

use std::{fmt, io};

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
        let first = self.sequence.wrapping_add(1);
        let total = batch.iter().map(Request::len).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(total));
        for request in batch.iter_mut() {
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend_from_slice(request.bytes_with_sequence(self.sequence));
        }
        let mut answers: Vec<Option<Result<(), Refusal>>> = batch.iter().map(|_| None).collect();
        if let Err(error) = self.exchange(&bytes, first, &mut answers).await {
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

    async fn exchange(
        &mut self,
        bytes: &[u8],
        first: u32,
        answers: &mut [Option<Result<(), Refusal>>],
    ) -> io::Result<()> {
        self.send(bytes).await?;
        let mut buffer = Zeroizing::new(vec![0; RECEIVE_LEN]);
        while answers.iter().any(Option::is_none) {
            let datagram = self.receive(&mut buffer).await?;
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
        let mut buffer = Zeroizing::new(vec![0; RECEIVE_LEN]);
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

    /// Lists every object of a kind. What disappears or appears meanwhile makes it read again.
    pub(super) async fn dump<T>(
        &mut self,
        kind: u16,
        mut parse: impl FnMut(&[u8]) -> Result<T, Error>,
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
        parse: &mut impl FnMut(&[u8]) -> Result<T, Error>,
    ) -> Result<Option<Vec<T>>, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut request = Request::without_body(kind, NLM_F_DUMP);
        self.send(request.bytes_with_sequence(sequence))
            .await
            .map_err(Error::Socket)?;
        let mut found = Vec::new();
        let mut stable = true;
        let mut buffer = Zeroizing::new(vec![0; RECEIVE_LEN]);
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
                    _ => found.push(parse(message.body)?),
                }
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A datagram socket sends everything or nothing.
        self.socket.send(bytes).await.map(|_| ())
    }

    /// One datagram. A state tells its key, so what the buffer held before is erased.
    async fn receive<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        buffer.zeroize();
        let mut free = &mut *buffer;
        self.socket.recv(&mut free).await?;
        let used = RECEIVE_LEN - free.len();
        if used == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(&buffer[..used])
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
    use super::*;

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
