//! What the front of a virtual machine and the renderer process of one of its contexts say to each other.
//!
//! The front owns the guest's memory, the resources and the fences; the renderer process owns the
//! Vulkan driver and the rings. A `SOCK_SEQPACKET` pair joins them, one message a packet.
//! Neither end trusts the other more than the guest: the renderer executes what a guest sends, and
//! the front passes on what it says.
//!
//! The front never waits for an answer: a request carries a token, and the answer names it.
//! Requests are executed in order; the answer to a fenced submission comes when its fence signals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use asgard_asg::kumquat::{MAX_PACKET, Packet, Socket};
use bytemuck::{Pod, Zeroable};

/// The most bytes of a submitted command: what a message has room for.
pub const MAX_COMMAND: usize = MAX_PACKET - size_of::<Head>();

/// Longer texts are cut.
const MAX_TEXT: usize = 512;

/// The part that all messages share; each uses what it needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct Head {
    kind: u32,
    a: u32,
    token: u64,
    b: u64,
    c: u64,
}

/// What the front asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first message: the context that this process is for.
    Create {
        /// Its id, for people.
        ctx_id: u32,
        /// Its renderer has died: tell whoever waits in its rings that the device is lost.
        lost: bool,
        /// A name for people, the guest's.
        name: String,
    },
    /// Memory of the front's under a resource id; its descriptor rides along.
    Add {
        /// The resource.
        res_id: u32,
        /// Bytes.
        size: u64,
        /// It was made to hold a ring.
        ring: bool,
    },
    /// Take the memory that the renderer published under `blob_id`. Answered by [`Answer::Blob`].
    Take {
        /// Names the request.
        token: u64,
        /// The resource that it becomes.
        res_id: u32,
        /// Not 0.
        blob_id: u64,
        /// Bytes that the guest wants.
        size: u64,
        /// The guest may import it again.
        shareable: bool,
    },
    /// A ring is in this memory whose host has died: take its place.
    TakeOver {
        /// The resource.
        res_id: u32,
    },
    /// The resource is this context's no more.
    Drop {
        /// The resource.
        res_id: u32,
    },
    /// SUBMIT_3D. Answered by [`Answer::Done`].
    Submit {
        /// Names the request.
        token: u64,
        /// The timeline of this context, or the device's.
        ring_idx: Option<u8>,
        /// Answer when everything that was submitted to the timeline has finished, not at once.
        fence: bool,
        /// At most [`MAX_COMMAND`] bytes.
        command: Vec<u8>,
    },
}

/// What the renderer process answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The memory rides along.
    Blob {
        /// Of the request.
        token: u64,
        /// Bytes.
        size: u64,
        /// virtio-gpu `map_info`.
        map_info: u32,
    },
    /// It is done.
    Done {
        /// Of the request.
        token: u64,
    },
    /// It cannot be done.
    Refused {
        /// Of the request.
        token: u64,
        /// For lack of memory, or of room below a limit.
        memory: bool,
    },
    /// The context is dead, and this process is about to be.
    Lost {
        /// For people.
        why: String,
    },
}

const CREATE: u32 = 1;
const ADD: u32 = 2;
const TAKE: u32 = 3;
const DROP: u32 = 4;
const SUBMIT: u32 = 5;
const TAKE_OVER: u32 = 6;
const BLOB: u32 = 16;
const DONE: u32 = 17;
const REFUSED: u32 = 18;
const LOST: u32 = 19;

/// Flags of SUBMIT, in `a`; the ring index lies above them.
const FENCE: u32 = 1;
const ON_RING: u32 = 2;

fn pack(head: Head, tail: &[u8]) -> Vec<u8> {
    let mut bytes = bytemuck::bytes_of(&head).to_vec();
    bytes.extend_from_slice(tail);
    bytes
}

fn unpack(bytes: &[u8]) -> Option<(Head, &[u8])> {
    let (head, tail) = bytes.split_at_checked(size_of::<Head>())?;
    Some((bytemuck::pod_read_unaligned(head), tail))
}

fn text(text: &str) -> &[u8] {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.as_bytes().get(..end).unwrap_or_default()
}

impl Request {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = Head::default();
        match self {
            Self::Create { ctx_id, lost, name } => {
                let (kind, token) = (CREATE, u64::from(*lost));
                pack(
                    Head {
                        kind,
                        a: *ctx_id,
                        token,
                        ..head
                    },
                    text(name),
                )
            }
            Self::Add { res_id, size, ring } => {
                let (kind, a, b, c) = (ADD, *res_id, *size, u64::from(*ring));
                pack(
                    Head {
                        kind,
                        a,
                        b,
                        c,
                        ..head
                    },
                    &[],
                )
            }
            Self::Take {
                token,
                res_id,
                blob_id,
                size,
                shareable,
            } => {
                let head = Head {
                    kind: TAKE,
                    a: *res_id,
                    token: *token,
                    b: *blob_id,
                    c: *size,
                };
                pack(head, &[u8::from(*shareable)])
            }
            Self::TakeOver { res_id } => pack(
                Head {
                    kind: TAKE_OVER,
                    a: *res_id,
                    ..head
                },
                &[],
            ),
            Self::Drop { res_id } => pack(
                Head {
                    kind: DROP,
                    a: *res_id,
                    ..head
                },
                &[],
            ),
            Self::Submit {
                token,
                ring_idx,
                fence,
                command,
            } => {
                let ring = ring_idx.map_or(0, |ring| ON_RING | (u32::from(ring) << 8));
                let (kind, a, token) = (SUBMIT, ring | (u32::from(*fence) * FENCE), *token);
                pack(
                    Head {
                        kind,
                        a,
                        token,
                        ..head
                    },
                    command,
                )
            }
        }
    }

    /// Reads what the front sent.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (
            Head {
                kind,
                a,
                token,
                b,
                c,
            },
            tail,
        ) = unpack(bytes)?;
        Some(match kind {
            CREATE => Self::Create {
                ctx_id: a,
                lost: token != 0,
                name: String::from_utf8_lossy(tail).into_owned(),
            },
            ADD => Self::Add {
                res_id: a,
                size: b,
                ring: c != 0,
            },
            TAKE => Self::Take {
                token,
                res_id: a,
                blob_id: b,
                size: c,
                shareable: tail != [0],
            },
            TAKE_OVER => Self::TakeOver { res_id: a },
            DROP => Self::Drop { res_id: a },
            SUBMIT => Self::Submit {
                token,
                ring_idx: (a & ON_RING != 0).then_some((a >> 8) as u8),
                fence: a & FENCE != 0,
                command: tail.to_vec(),
            },
            _ => return None,
        })
    }
}

impl Answer {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = Head::default();
        match self {
            Self::Blob {
                token,
                size,
                map_info,
            } => {
                let (kind, a, token, b) = (BLOB, *map_info, *token, *size);
                pack(
                    Head {
                        kind,
                        a,
                        token,
                        b,
                        ..head
                    },
                    &[],
                )
            }
            Self::Done { token } => pack(
                Head {
                    kind: DONE,
                    token: *token,
                    ..head
                },
                &[],
            ),
            Self::Refused { token, memory } => {
                let (kind, a, token) = (REFUSED, u32::from(*memory), *token);
                pack(
                    Head {
                        kind,
                        a,
                        token,
                        ..head
                    },
                    &[],
                )
            }
            Self::Lost { why } => pack(Head { kind: LOST, ..head }, text(why)),
        }
    }

    /// Reads what the renderer process sent.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (
            Head {
                kind, a, token, b, ..
            },
            tail,
        ) = unpack(bytes)?;
        Some(match kind {
            BLOB => Self::Blob {
                token,
                size: b,
                map_info: a,
            },
            DONE => Self::Done { token },
            REFUSED => Self::Refused {
                token,
                memory: a != 0,
            },
            LOST => Self::Lost {
                why: String::from_utf8_lossy(tail).into_owned(),
            },
            _ => return None,
        })
    }
}

/// How a message fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Yes,
    /// The renderer process does not read: try again when its socket is writable.
    Full,
    /// The renderer process is gone.
    Gone,
}

/// The front's end.
#[derive(Debug)]
pub struct Link(Socket);

impl Link {
    /// The front's end, and the one that the renderer process gets.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = Socket::pair()?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Self(ours), theirs.as_fd().try_clone_to_owned()?))
    }

    /// Sends without waiting.
    pub fn send(&self, request: &Request, memory: Option<BorrowedFd<'_>>) -> Sent {
        let fds: Vec<BorrowedFd<'_>> = memory.into_iter().collect();
        match self.0.send(&request.to_bytes(), &fds) {
            Ok(()) => Sent::Yes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(error) => {
                tracing::debug!("a renderer process cannot be reached: {error}");
                Sent::Gone
            }
        }
    }

    /// The next answer and the descriptor that came with it, without waiting; `Err` once the process
    /// is gone or talks nonsense.
    pub fn receive(&self) -> Result<Option<(Answer, Option<OwnedFd>)>, String> {
        let mut packet = Packet::default();
        match self.0.recv(&mut packet) {
            Ok(true) => {}
            Ok(false) => return Err("it ended".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.to_string()),
        }
        match Answer::parse(&packet.bytes) {
            Some(answer) => Ok(Some((answer, packet.fds.pop()))),
            None => Err("it sent what is no answer".to_owned()),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let requests = [
            Request::Create {
                ctx_id: 3,
                lost: true,
                name: "vkcube".to_owned(),
            },
            Request::Add {
                res_id: 5,
                size: 1 << 40,
                ring: true,
            },
            Request::Take {
                token: 7,
                res_id: 5,
                blob_id: 1 << 63,
                size: 4096,
                shareable: true,
            },
            Request::Drop { res_id: u32::MAX },
            Request::TakeOver { res_id: 1 },
            Request::Submit {
                token: 9,
                ring_idx: Some(0),
                fence: true,
                command: vec![1, 2, 3],
            },
            Request::Submit {
                token: 9,
                ring_idx: Some(63),
                fence: false,
                command: Vec::new(),
            },
            Request::Submit {
                token: 9,
                ring_idx: None,
                fence: true,
                command: vec![0; MAX_COMMAND],
            },
        ];
        for request in requests {
            let bytes = request.to_bytes();
            assert!(bytes.len() <= MAX_PACKET);
            assert_eq!(Request::parse(&bytes), Some(request));
        }
        let answers = [
            Answer::Blob {
                token: 1,
                size: 2,
                map_info: 3,
            },
            Answer::Done { token: u64::MAX },
            Answer::Refused {
                token: 4,
                memory: true,
            },
            Answer::Lost {
                why: "a bad packet".to_owned(),
            },
        ];
        for answer in answers {
            assert_eq!(Answer::parse(&answer.to_bytes()), Some(answer));
        }
    }

    #[test]
    fn nonsense_is_no_message() {
        for len in 0..64 {
            assert_eq!(Request::parse(&vec![0xff; len]), None);
            assert_eq!(Answer::parse(&vec![0; len]), None);
        }
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "ä".repeat(600);
        let bytes = Request::Create {
            ctx_id: 1,
            lost: false,
            name,
        }
        .to_bytes();
        let Some(Request::Create { name, .. }) = Request::parse(&bytes) else {
            panic!("no message")
        };
        assert_eq!(name, "ä".repeat(MAX_TEXT / 2));
    }

    #[test]
    fn a_full_socket_is_told_and_a_dead_one_too() {
        let (link, theirs) = Link::pair().unwrap();
        let request = Request::Drop { res_id: 1 };
        let mut sent = std::iter::repeat_with(|| link.send(&request, None)).take(1 << 20);
        assert_eq!(sent.find(|sent| *sent != Sent::Yes), Some(Sent::Full));
        assert!(matches!(link.receive(), Ok(None)));
        drop(theirs);
        assert_eq!(link.send(&request, None), Sent::Gone);
        assert!(link.receive().is_err());
    }
}
