//! Recordings of a stream, for tests of the codecs and for people who hunt a bug.
//!
//! Records back to back: `u8 direction (0 from the guest, 1 to it) | u8 kind | u16 0 | u32 length`, then
//! that many bytes. Here every packet is one record of kind 1 and every reply one of kind 3.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// Writes one stream's bytes to a file.
#[derive(Debug)]
pub(crate) struct Recording(Option<BufWriter<File>>);

impl Recording {
    /// Starts a recording in `folder`; a failure is logged, and nothing is recorded.
    pub(crate) fn start(folder: &Path, name: &str, stream: u64) -> Self {
        let path = folder.join(file_name(name, stream));
        match File::create(&path) {
            Ok(file) => Self(Some(BufWriter::new(file))),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot record");
                Self(None)
            }
        }
    }

    pub(crate) fn packet(&mut self, bytes: &[u8]) {
        self.write([0, 1, 0, 0], bytes);
    }

    pub(crate) fn reply(&mut self, bytes: &[u8]) {
        self.write([1, 3, 0, 0], bytes);
    }

    fn write(&mut self, head: [u8; 4], bytes: &[u8]) {
        let Some(file) = &mut self.0 else { return };
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let done = file
            .write_all(&head)
            .and_then(|()| file.write_all(&length))
            .and_then(|()| file.write_all(bytes));
        if let Err(error) = done {
            tracing::warn!(%error, "the recording ends here");
            self.0 = None;
        }
    }
}

/// The name is the guest's, and must not lead out of the folder.
fn file_name(name: &str, stream: u64) -> String {
    let harmless = |c: char| {
        if c.is_ascii_alphanumeric() || "-_".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(harmless).collect();
    format!("{name}.{stream}.gfxrec")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_does_not_choose_the_folder() {
        assert_eq!(file_name("/etc/../x y", 3), "_etc____x_y.3.gfxrec");
        assert_eq!(file_name("vkcube-1", 0), "vkcube-1.0.gfxrec");
    }
}
