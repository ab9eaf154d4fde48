//! QEMU's control socket (QMP): what people type and point at goes this way to the guest.
//!
//! A thread of its own speaks to QEMU, so that nobody waits for it. It connects when there is first something to say:
//! QEMU makes the socket when it starts, which may be after us.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

/// Messages that wait for QEMU; more are dropped, for a machine that reads nothing will not miss them.
const WAITING: usize = 1024;
/// Events in one message.
const BATCH: usize = 64;
/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of one answer.
const LONGEST: u64 = 1 << 20;

/// The largest coordinate; the smallest is 0.
pub const EXTENT: u16 = 0x7fff;

/// What somebody does with the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key goes down, or up; the name is one of `QKeyCode`.
    Key(&'static str, bool),
    /// A button of the pointer goes down, or up; the name is one of `InputButton`.
    Button(&'static str, bool),
    /// The pointer is at these parts of the display's width and height, in [`EXTENT`]s.
    Point(u16, u16),
    /// The machine's power button is pressed.
    Power,
    /// The machine's plug is pulled.
    Quit,
}

impl Input {
    /// Its events, or `None` if it is a command.
    fn events(self) -> Option<Vec<Value>> {
        let axis = |axis, value| json!({"type": "abs", "data": {"axis": axis, "value": value}});
        Some(match self {
            Self::Key(name, down) => vec![
                json!({"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": name}}}),
            ],
            Self::Button(name, down) => {
                vec![json!({"type": "btn", "data": {"down": down, "button": name}})]
            }
            Self::Point(x, y) => vec![axis("x", x), axis("y", y)],
            Self::Power | Self::Quit => return None,
        })
    }
}

/// The end of those who have something to say.
#[derive(Debug)]
pub struct Qmp(SyncSender<Input>);

impl Qmp {
    /// Will speak to the QEMU that listens on this socket.
    pub fn start(path: PathBuf) -> io::Result<Self> {
        let (sender, inputs) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(move || run(&path, &inputs))?;
        Ok(Self(sender))
    }

    /// Hands something over; it never waits.
    pub fn send(&self, input: Input) {
        match self.0.try_send(input) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => tracing::debug!("QEMU does not take what is typed"),
        }
    }
}

fn run(path: &Path, inputs: &Receiver<Input>) {
    let mut connection = None;
    while let Ok(first) = inputs.recv() {
        let mut said = Ok(());
        let mut events = Vec::new();
        for input in std::iter::once(first).chain(inputs.try_iter().take(BATCH)) {
            match input.events() {
                Some(more) => events.extend(more),
                None => {
                    // In the order in which they came.
                    said = said.and_then(|()| flush(&mut connection, path, &mut events));
                    let command = if input == Input::Quit {
                        "quit"
                    } else {
                        "system_powerdown"
                    };
                    said = said
                        .and_then(|()| call(&mut connection, path, &json!({"execute": command})));
                }
            }
        }
        said = said.and_then(|()| flush(&mut connection, path, &mut events));
        if let Err(error) = said {
            tracing::warn!(
                "cannot tell QEMU what was typed, on {}: {error}",
                path.display()
            );
            connection = None;
        }
    }
}

fn flush(
    connection: &mut Option<Connection>,
    path: &Path,
    events: &mut Vec<Value>,
) -> io::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let events = std::mem::take(events);
    let command = json!({"execute": "input-send-event", "arguments": {"events": events}});
    call(connection, path, &command)
}

fn call(connection: &mut Option<Connection>, path: &Path, command: &Value) -> io::Result<()> {
    let open = match connection.take() {
        Some(open) => open,
        None => Connection::open(path)?,
    };
    connection.insert(open).call(command)
}

#[derive(Debug)]
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn open(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Self(BufReader::new(stream));
        connection.read()?;
        connection.call(&json!({"execute": "qmp_capabilities"}))?;
        Ok(connection)
    }

    /// Sends a command and waits until it is done.
    fn call(&mut self, command: &Value) -> io::Result<()> {
        self.0
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())?;
        loop {
            let answer = self.read()?;
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
            // Anything else is news of the machine.
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        (&mut self.0).take(LONGEST).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_typed_arrives_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qmp = Qmp::start(path).unwrap();
        for input in [
            Input::Key("a", true),
            Input::Power,
            Input::Point(1, EXTENT),
            Input::Button("left", false),
            Input::Quit,
        ] {
            qmp.send(input);
        }
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(b"{\"QMP\": {}}\n").unwrap();
        let mut heard = Vec::new();
        while heard.last().map(String::as_str) != Some("quit") {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let message: Value = serde_json::from_str(&line).unwrap();
            let news = b"{\"event\": \"RESUME\"}\n{\"return\": {}}\n";
            stream.get_mut().write_all(news).unwrap();
            match message["arguments"]["events"].as_array() {
                None => heard.push(message["execute"].as_str().unwrap().to_owned()),
                Some(events) => heard.extend(events.iter().map(|event| event["data"].to_string())),
            }
        }
        let expected = [
            "qmp_capabilities",
            r#"{"down":true,"key":{"data":"a","type":"qcode"}}"#,
            "system_powerdown",
            r#"{"axis":"x","value":1}"#,
            r#"{"axis":"y","value":32767}"#,
            r#"{"button":"left","down":false}"#,
            "quit",
        ];
        assert_eq!(heard, expected);
    }
}
