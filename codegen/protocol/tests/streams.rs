//! Recorded streams: every byte of both directions decodes, and encodes again to the same bytes.
//!
//! The recordings beside this file were made by this project (`tests/streams/README.md`).
//! `ASGARD_STREAMS=DIR` checks the `*.gfxrec.gz` files of another folder as well.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use asgard_protocol::commands::vkQueueFlushCommandsGOOGLE;
use asgard_protocol::packet::Header;
use asgard_protocol::wire::Tokens;
use asgard_protocol::{Arena, Command, DecodeError, Exact, Reader, Writer, commands};

/// One direction change's worth of bytes.
struct Record {
    from_host: bool,
    bytes: Vec<u8>,
}

fn records(path: &Path) -> Vec<Record> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    let mut records = Vec::new();
    let mut rest = bytes.as_slice();
    while let [dir, _kind, _, _, a, b, c, d, tail @ ..] = rest {
        let (bytes, next) = tail.split_at(u32::from_le_bytes([*a, *b, *c, *d]) as usize);
        records.push(Record {
            from_host: *dir == 1,
            bytes: bytes.to_vec(),
        });
        rest = next;
    }
    records
}

/// Decodes and encodes one packet's parameters and, if there is one, its reply.
fn check<C: Command>(
    mut reader: Reader<'_>,
    arena: &Arena,
    parameters: &[u8],
    reply: &[u8],
    staged: bool,
) -> Result<C, DecodeError> {
    // SAFETY: the arena outlives everything here, and what was decoded is valid to encode.
    unsafe {
        // As for a driver: every structure type is the one that is due.
        let mut driver = if staged {
            Reader::staged(parameters, arena, &Tokens, (1, 1))
        } else {
            Reader::request(parameters, arena, &Tokens)
        };
        C::decode_request(&mut driver)?;
        driver.end()?;

        let mut command = C::decode_request(&mut reader)?;
        reader.end()?;
        let mut again = Vec::new();
        let mut w = Writer::new(&mut again, &Exact).replay(reader.trace());
        if staged {
            w = w.staged();
        }
        command.encode_request(&mut w);
        assert_eq!(again, parameters, "{} encodes differently", C::NAME);
        assert_eq!(C::HAS_REPLY, !reply.is_empty(), "{} and its reply", C::NAME);
        if C::HAS_REPLY {
            let mut r = Reader::reply(reply, arena, &Exact).tracing();
            let ret = command.decode_reply(&mut r)?;
            r.end()?;
            let mut again = Vec::new();
            let mut w = Writer::new(&mut again, &Exact).replay(r.trace());
            command.encode_reply(ret, &mut w);
            assert_eq!(again, reply, "the reply of {} encodes differently", C::NAME);
        }
        Ok(command)
    }
}

fn packet(opcode: u32, parameters: &[u8], reply: &[u8], staged: bool) -> Result<(), DecodeError> {
    let arena = Arena::new();
    macro_rules! dispatch {
        ($($name:ident,)*) => {
            match opcode {
                $(<commands::$name as Command>::OPCODE => {
                    let reader = if staged {
                        Reader::staged(parameters, &arena, &Exact, (1, 1)).tracing()
                    } else {
                        Reader::request(parameters, &arena, &Exact).tracing()
                    };
                    check::<commands::$name>(reader, &arena, parameters, reply, staged)?;
                })*
                _ => panic!("opcode {opcode} is unknown"),
            }
        };
    }
    asgard_protocol::for_each_command!(dispatch);
    if opcode == vkQueueFlushCommandsGOOGLE::OPCODE {
        let (_, mut body) = parameters.split_at(24);
        while let Some(header) = Header::read(body) {
            let (one, rest) = body.split_at(header.size as usize);
            packet(header.opcode, &one[8..], &[], true)
                .inspect_err(|_| println!("in {:?}: {one:02x?}", commands::name(header.opcode)))?;
            body = rest;
        }
        assert!(body.is_empty());
    }
    Ok(())
}

fn check_file(path: &Path) -> usize {
    let records = records(path);
    let mut to_host: Vec<u8> = Vec::new();
    // Where in `to_host` each reply came.
    let mut replies: Vec<(usize, Vec<u8>)> = Vec::new();
    for record in records {
        if record.from_host {
            match replies.last_mut() {
                Some((at, bytes)) if *at == to_host.len() => bytes.extend(record.bytes),
                _ => replies.push((to_host.len(), record.bytes)),
            }
        } else {
            to_host.extend(record.bytes);
        }
    }
    assert_eq!(to_host[..4], [0; 4], "client flags");
    let mut at = 4;
    let mut count = 0;
    let mut replies = replies.into_iter().peekable();
    while let Some(header) = Header::read(&to_host[at..]) {
        let end = at + header.size as usize;
        let name = commands::name(header.opcode).unwrap_or("an unknown command");
        macro_rules! on_command_buffer {
            ($($name:ident,)*) => {
                match header.opcode {
                    $(<commands::$name as Command>::OPCODE => {
                        <commands::$name as Command>::ON_COMMAND_BUFFER
                    })*
                    _ => false,
                }
            };
        }
        // No sequence number there.
        let head = if asgard_protocol::for_each_command!(on_command_buffer) {
            8
        } else {
            12
        };
        let reply = replies
            .next_if(|(at, _)| *at == end)
            .map(|(_, r)| r)
            .unwrap_or_default();
        if end == to_host.len() && reply.is_empty() && name == "vkQueueWaitIdle" {
            // A recording that ends before its last reply.
            break;
        }
        if let Err(error) = packet(header.opcode, &to_host[at + head..end], &reply, false) {
            panic!(
                "{}: packet {count} at byte {at}, {name}: {error}",
                path.display()
            );
        }
        at = end;
        count += 1;
    }
    assert!(replies.next().is_none(), "a reply without a packet");
    count
}

fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams");
    std::iter::once(own)
        .chain(std::env::var_os("ASGARD_STREAMS").map(PathBuf::from))
        .collect()
}

#[test]
fn every_recorded_byte_decodes_and_encodes_again() {
    let mut packets = 0;
    for folder in folders() {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "gz"))
            .collect();
        files.sort();
        for file in files {
            let n = check_file(&file);
            println!("{}: {n} packets", file.display());
            packets += n;
        }
    }
    assert!(packets > 0, "no recording was found");
}
