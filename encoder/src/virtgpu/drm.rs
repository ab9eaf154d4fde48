//! A device in a virtual machine: the kernel's virtio-gpu driver, behind a render node.
//!
//! The host and we have different kernels, so that nobody can sleep on a word of the ring: the host is
//! pinged by a request when it shows that it sleeps, and replies are looked for, at first often and then
//! seldom.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use asgard_asg::Mapping;
use asgard_asg::capset::{CAPSET_ID, FULL_SIZE};
use asgard_asg::guest::Ping;
use asgard_asg::kumquat::{BLOB_FLAG_CROSS_DEVICE, BLOB_FLAG_MAPPABLE, BLOB_FLAG_SHAREABLE};
use asgard_asg::layout::blob_size;
use asgard_asg::submit::Command;
use bytemuck::{Pod, Zeroable, bytes_of_mut};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Pid, getpid};

use super::uapi::*;
use super::{
    Blob, Error, HOST3D, Host, RINGS, Release, Ring, RingPing, VirtGpu, is_readable, payload,
    ring_of, size_of_file,
};

/// Where the kernel puts render nodes.
const NODES: &str = "/dev/dri";
/// What the driver of a suitable node calls itself.
const DRIVER: &[u8] = b"virtio_gpu";
/// The timeline on which a host answers at once.
const PROBE_RING: u32 = 1;
/// The kernel takes this much of a context's name.
const NAME_MAX: usize = 62;

/// How often the kernel is asked to wait for a new ring; it gives up after 15 seconds each time.
const PATIENCE: u32 = 2;
/// How long a reply may take before the host is asked whether it lives.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// How long it may take to say so.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

/// An open node.
pub(crate) trait Kernel: Send + Sync + 'static {
    /// Makes a request.
    ///
    /// # Safety
    /// The argument is the structure that the request wants, and the addresses in it lead to memory of the
    /// lengths that it states.
    unsafe fn ioctl(&self, request: u32, argument: &mut [u8]) -> Result<(), Errno>;

    /// What blobs are mapped from.
    fn file(&self) -> &Arc<OwnedFd>;
}

struct Node(Arc<OwnedFd>);

impl Kernel for Node {
    unsafe fn ioctl(&self, request: u32, argument: &mut [u8]) -> Result<(), Errno> {
        loop {
            // libc's function, as a library that stands in for the kernel can put its own in front of it.
            // SAFETY: the caller's promise; the kernel writes no more than the structure's size.
            let result = unsafe {
                libc::ioctl(
                    self.0.as_raw_fd(),
                    request as libc::Ioctl,
                    argument.as_mut_ptr(),
                )
            };
            if result >= 0 {
                return Ok(());
            }
            match Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO) {
                Errno::INTR | Errno::AGAIN => {}
                error => return Err(error),
            }
        }
    }

    fn file(&self) -> &Arc<OwnedFd> {
        &self.0
    }
}

struct Drm<K> {
    kernel: K,
    host: Host,
    /// Whose it is; a forked child has the same file, and must not use what its parent has there.
    process: Pid,
    /// The kernel can share memory with other devices.
    cross_device: bool,
    /// How many blobs stand for each of the kernel's handles: whoever imports the same memory twice gets the
    /// same handle twice, and closing it once closes it for both.
    handles: Mutex<HashMap<u32, u32>>,
    dead: AtomicBool,
}

/// Opens the first node that serves gfxstream's Vulkan; otherwise tells what is wrong with each.
pub(crate) fn find(name: &[u8]) -> Result<Arc<dyn VirtGpu>, String> {
    let mut nodes: Vec<PathBuf> = std::fs::read_dir(NODES)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"renderD"))
        })
        .collect();
    nodes.sort();
    let mut reasons = Vec::new();
    for node in nodes {
        match open(&node, name) {
            Ok(device) => return Ok(device),
            Err(Error::Absent(why) | Error::Unsuited(why)) => reasons.push(why),
            Err(error) => reasons.push(format!("{}: {error}", node.display())),
        }
    }
    if reasons.is_empty() {
        return Err(format!("there is no render node in {NODES}"));
    }
    Err(reasons.join("; "))
}

/// Opens a node and makes a context.
pub(crate) fn open(path: &Path, name: &[u8]) -> Result<Arc<dyn VirtGpu>, Error> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(|error| {
        let help = if error.kind() == io::ErrorKind::PermissionDenied {
            " (its group is usually `render`: sudo usermod -aG render $USER, then log in again)"
        } else {
            ""
        };
        Error::Absent(format!("{}: {error}{help}", path.display()))
    })?;
    match Drm::new(Node(Arc::new(file.into())), name) {
        Ok(drm) => Ok(Arc::new(Arc::new(drm))),
        Err(Error::Unsuited(why)) => Err(Error::Unsuited(format!("{}: {why}", path.display()))),
        Err(error) => Err(error),
    }
}

impl<K: Kernel> Drm<K> {
    fn new(kernel: K, name: &[u8]) -> Result<Self, Error> {
        let mut drm = Self {
            kernel,
            host: Host::default(),
            process: getpid(),
            cross_device: false,
            handles: Mutex::default(),
            dead: AtomicBool::new(false),
        };
        let driver = drm.driver()?;
        if driver != DRIVER {
            let driver = driver.escape_ascii();
            return Err(Error::Unsuited(format!("its driver is {driver}")));
        }
        for (param, without) in [
            (
                param::FEATURES_3D,
                "the device has no contexts for renderers (feature VIRGL)",
            ),
            (
                param::CAPSET_QUERY_FIX,
                "the kernel is too old to ask for capability sets by their number",
            ),
            (
                param::RESOURCE_BLOB,
                "no blobs: the kernel is older than 5.11, or the device lacks the feature RESOURCE_BLOB",
            ),
            (
                param::HOST_VISIBLE,
                "the device has no window for the host's memory",
            ),
            (
                param::CONTEXT_INIT,
                "no context types: the kernel is older than 5.16, or the device lacks the feature CONTEXT_INIT",
            ),
        ] {
            if drm.param(param) == 0 {
                return Err(Error::Unsuited(without.into()));
            }
        }
        let capsets = drm.param(param::SUPPORTED_CAPSET_IDS);
        if capsets & 1 << CAPSET_ID == 0 {
            return Err(Error::Unsuited(format!(
                "the host has no such renderer (its capability sets are 0x{capsets:x}, without number {CAPSET_ID})"
            )));
        }
        drm.host = drm.capset()?;
        drm.cross_device = drm.param(param::CROSS_DEVICE) != 0;
        drm.init_context(name)?;
        Ok(drm)
    }

    /// Makes a request with a structure whose addresses are valid for as long as the call lasts.
    fn call<T: Pod>(&self, number: u32, argument: &mut T) -> Result<(), Errno> {
        if getpid() != self.process {
            return Err(Errno::NODEV);
        }
        // SAFETY: the callers, all in this file, pass the structure of the request, and in it nothing or the
        // addresses and lengths of what they own.
        let result = unsafe {
            self.kernel
                .ioctl(request::<T>(number), bytes_of_mut(argument))
        };
        // Of an import they say that the file is of a device that the kernel takes nothing from.
        if let Err(error @ (Errno::NODEV | Errno::IO)) = result
            && number != number::PRIME_FD_TO_HANDLE
        {
            self.lost(&error.to_string());
        }
        result
    }

    fn lost(&self, why: &str) {
        if !self.dead.swap(true, Ordering::SeqCst) {
            eprintln!(
                "asgard: the virtio-gpu device is lost ({why}); see what its renderer says, and restart this program"
            );
        }
    }

    /// What the device is called by its driver.
    fn driver(&self) -> Result<Vec<u8>, Error> {
        let mut name = [0_u8; 32];
        let mut version = Version::zeroed();
        version.strings[0] = [name.len(), name.as_mut_ptr() as usize];
        self.call(number::VERSION, &mut version)
            .map_err(|error| Error::Unsuited(format!("it is not a graphics device: {error}")))?;
        let [len, _] = version.strings[0];
        Ok(name[..len.min(name.len())].to_vec())
    }

    /// A parameter; 0 for one that the kernel does not know.
    fn param(&self, param: u64) -> u32 {
        let mut value = 0_u32;
        let mut get = GetParam {
            param,
            value: (&raw mut value) as u64,
        };
        match self.call(number::GETPARAM, &mut get) {
            Ok(()) => value,
            Err(_) => 0,
        }
    }

    fn capset(&self) -> Result<Host, Error> {
        let mut bytes = [0_u8; FULL_SIZE];
        let mut get = GetCaps {
            capset_id: CAPSET_ID,
            address: bytes.as_mut_ptr() as u64,
            size: FULL_SIZE as u32,
            ..GetCaps::zeroed()
        };
        self.call(number::GET_CAPS, &mut get)
            .map_err(|error| Error::Unsuited(format!("its capability set: {error}")))?;
        Host::parse(&bytes)
    }

    fn init_context(&self, name: &[u8]) -> Result<(), Error> {
        let name = CString::new(&name[..name.len().min(NAME_MAX)]).unwrap_or_default();
        let params = [
            [CONTEXT_CAPSET_ID, u64::from(CAPSET_ID)],
            [CONTEXT_NUM_RINGS, RINGS],
            [CONTEXT_DEBUG_NAME, name.as_ptr() as u64],
        ];
        let named = self.param(param::EXPLICIT_DEBUG_NAME) != 0;
        let mut init = ContextInit {
            num_params: if named { 3 } else { 2 },
            pad: 0,
            params: params.as_ptr() as u64,
        };
        self.call(number::CONTEXT_INIT, &mut init)
            .map_err(|error| Error::Unsuited(format!("the device makes no context: {error}")))
    }

    /// Submits a small command on a timeline; the fence is there if it is asked for.
    fn submit(
        &self,
        command: &Command,
        ring: Option<u32>,
        blobs: &[u32],
    ) -> Result<Option<OwnedFd>, Errno> {
        let bytes = payload(command);
        let mut exec = ExecBuffer {
            size: bytes.len() as u32,
            command: bytes.as_ptr() as u64,
            bo_handles: blobs.as_ptr() as u64,
            num_bo_handles: blobs.len() as u32,
            fence_fd: -1,
            ..ExecBuffer::zeroed()
        };
        if let Some(ring) = ring {
            exec.flags = EXEC_FENCE_FD_OUT | EXEC_RING_IDX;
            exec.ring_idx = ring;
        }
        self.call(number::EXECBUFFER, &mut exec)?;
        Ok(
            (exec.flags & EXEC_FENCE_FD_OUT != 0 && exec.fence_fd >= 0).then(|| {
                // SAFETY: the kernel has made it for us.
                unsafe { OwnedFd::from_raw_fd(exec.fence_fd) }
            }),
        )
    }

    /// Whole pages of the guest's and of the host's.
    fn whole(&self, size: u64) -> Result<u64, Error> {
        let alignment = self
            .host
            .capset
            .blob_alignment
            .max(4096)
            .next_power_of_two();
        let page = (rustix::param::page_size() as u64).max(alignment.into());
        size.checked_next_multiple_of(page)
            .ok_or_else(|| Error::Refused(format!("{size} bytes are too many")))
    }

    /// Counts one more user of a handle.
    fn keep(self: &Arc<Self>, handles: &mut HashMap<u32, u32>, handle: u32) -> Release {
        *handles.entry(handle).or_default() += 1;
        let drm = Arc::clone(self);
        Release::new(move || drm.close(handle))
    }

    fn close(&self, handle: u32) {
        let mut handles = self.handles.lock();
        let users = handles.entry(handle).or_insert(1);
        *users -= 1;
        if *users == 0 {
            handles.remove(&handle);
            // While the table is locked, so that nobody imports it in between. Nothing can be done if it fails.
            let _ = self.call(number::GEM_CLOSE, &mut GemClose { handle, pad: 0 });
        }
    }

    /// Where to map a handle's memory from.
    fn map_offset(&self, handle: u32) -> Result<u64, Error> {
        let mut map = Map {
            handle,
            ..Map::zeroed()
        };
        self.call(number::MAP, &mut map)
            .map_err(|error| Error::Refused(format!("memory cannot be mapped: {error}")))?;
        Ok(map.offset)
    }

    /// A new resource of at least that size.
    fn create(
        self: &Arc<Self>,
        blob_id: u64,
        size: u64,
        blob_flags: u32,
    ) -> Result<Created, Error> {
        let mut create = CreateBlob {
            blob_mem: HOST3D,
            blob_flags,
            size: self.whole(size)?,
            blob_id,
            ..CreateBlob::zeroed()
        };
        let mut handles = self.handles.lock();
        self.call(number::RESOURCE_CREATE_BLOB, &mut create)
            .map_err(|error| {
                Error::Refused(format!("a resource of {} bytes: {error}", create.size))
            })?;
        Ok(Created {
            handle: create.bo_handle,
            resource_id: create.res_handle,
            size: create.size,
            release: self.keep(&mut handles, create.bo_handle),
        })
    }

    /// Waits until the host has done what was submitted with this handle.
    fn wait(&self, handle: u32) -> Result<(), Error> {
        for _ in 0..PATIENCE {
            match self.call(number::WAIT, &mut Wait { handle, flags: 0 }) {
                Ok(()) => return Ok(()),
                Err(Errno::BUSY) => {}
                Err(error) => return Err(Error::Lost(error.to_string())),
            }
        }
        Err(Error::Unsuited("it does not answer".into()))
    }
}

struct Created {
    handle: u32,
    resource_id: u32,
    size: u64,
    release: Release,
}

impl<K: Kernel> VirtGpu for Arc<Drm<K>> {
    fn host(&self) -> &Host {
        &self.host
    }

    fn has_dma_bufs(&self) -> bool {
        true
    }

    fn create_ring(&self) -> Result<Ring, Error> {
        let size = blob_size(self.host.capset.buffer_size);
        let created = self.create(0, size as u64, BLOB_FLAG_MAPPABLE)?;
        let resource_id = created.resource_id;
        let start = Command::ContextCreate { resource_id };
        self.submit(&start, None, &[created.handle])
            .map_err(|error| Error::Lost(error.to_string()))?;
        // The host initialises the ring before it signals the fence that now is on the blob.
        self.wait(created.handle)?;
        let offset = self.map_offset(created.handle)?;
        let memory = Mapping::map_trusted(self.kernel.file(), offset, size)
            .map_err(|error| Error::Lost(format!("the ring cannot be mapped: {error}")))?;
        let ping = DrmPing {
            drm: Arc::clone(self),
            resource_id,
            probe: Probe::default(),
            _release: created.release,
        };
        Ok(Ring {
            memory: Arc::new(memory),
            ping: Box::new(ping),
            same_kernel: false,
        })
    }

    fn create_blob(&self, blob_id: u64, size: u64, shared: bool) -> Result<Blob, Error> {
        let flags = match (shared, self.cross_device) {
            (false, _) => BLOB_FLAG_MAPPABLE,
            (true, false) => BLOB_FLAG_MAPPABLE | BLOB_FLAG_SHAREABLE,
            (true, true) => BLOB_FLAG_MAPPABLE | BLOB_FLAG_SHAREABLE | BLOB_FLAG_CROSS_DEVICE,
        };
        let created = self.create(blob_id, size, flags)?;
        Ok(Blob {
            resource_id: created.resource_id,
            handle: created.handle,
            size: created.size,
            file: Some(Arc::clone(self.kernel.file())),
            offset: self.map_offset(created.handle)?,
            _release: created.release,
        })
    }

    fn export(&self, blob: &Blob) -> Result<OwnedFd, Error> {
        let mut prime = Prime {
            handle: blob.handle,
            flags: (libc::O_CLOEXEC | libc::O_RDWR) as u32,
            fd: -1,
        };
        let done = self.call(number::PRIME_HANDLE_TO_FD, &mut prime);
        match done {
            // SAFETY: the kernel has made it for us.
            Ok(()) if prime.fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(prime.fd) }),
            Ok(()) => Err(Error::Refused("memory is exported as no file".into())),
            Err(error) => Err(Error::Refused(format!("memory is not exported: {error}"))),
        }
    }

    fn import(&self, file: BorrowedFd<'_>) -> Result<Blob, Error> {
        let refused = |error: Errno| Error::Refused(format!("memory is not imported: {error}"));
        let mut prime = Prime {
            fd: file.as_raw_fd(),
            ..Prime::zeroed()
        };
        let release = {
            let mut handles = self.handles.lock();
            self.call(number::PRIME_FD_TO_HANDLE, &mut prime)
                .map_err(refused)?;
            self.keep(&mut handles, prime.handle)
        };
        let mut info = ResourceInfo {
            bo_handle: prime.handle,
            ..ResourceInfo::zeroed()
        };
        self.call(number::RESOURCE_INFO, &mut info)
            .map_err(refused)?;
        Ok(Blob {
            resource_id: info.res_handle,
            handle: prime.handle,
            size: size_of_file(file),
            file: Some(Arc::clone(self.kernel.file())),
            offset: self.map_offset(prime.handle)?,
            _release: release,
        })
    }

    fn sync_file(&self, command: &Command, timeline: u64) -> Result<OwnedFd, Error> {
        match self.submit(command, Some(ring_of(timeline).into()), &[]) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(Error::Refused("no fence".into())),
            Err(error) => Err(Error::Refused(format!("no fence: {error}"))),
        }
    }
}

struct DrmPing<K: Kernel> {
    drm: Arc<Drm<K>>,
    resource_id: u32,
    probe: Probe,
    _release: Release,
}

/// Whether the host answers, asked while a reply is long in coming: a ring does not tell that its host died.
#[derive(Default)]
struct Probe {
    /// When somebody last asked.
    looked: Option<Instant>,
    /// Since when the same reply is waited for, or since the host was last heard of.
    since: Option<Instant>,
    /// What the host should signal at once, and when it was asked to.
    asked: Option<(Instant, OwnedFd)>,
}

impl Probe {
    /// Between two looks at the same wait lies less.
    const SAME_WAIT: Duration = Duration::from_millis(500);

    /// Whether the host is silent, as far as `ask` can tell.
    fn is_silent(&mut self, now: Instant, ask: impl FnOnce() -> Option<OwnedFd>) -> bool {
        let looked = self.looked.replace(now);
        if looked.is_none_or(|then| now.duration_since(then) > Self::SAME_WAIT) {
            self.since = Some(now);
            self.asked = None;
        }
        if let Some((then, fence)) = &self.asked {
            if is_readable(fence) {
                self.asked = None;
                self.since = Some(now);
                return false;
            }
            return now.duration_since(*then) > PROBE_PATIENCE;
        }
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) > PROBE_AFTER {
            self.asked = ask().map(|fence| (now, fence));
        }
        false
    }
}

impl<K: Kernel> Ping for DrmPing<K> {
    fn ping(&mut self) -> asgard_asg::Result<()> {
        let ping = Command::ContextPing {
            resource_id: self.resource_id,
        };
        match self.drm.submit(&ping, None, &[]) {
            Ok(_) => Ok(()),
            Err(_) => Err(asgard_asg::Error::Disconnected),
        }
    }

    fn peer_alive(&mut self) -> bool {
        if self.drm.dead.load(Ordering::SeqCst) {
            return false;
        }
        let drm = &self.drm;
        let silent = self.probe.is_silent(Instant::now(), || {
            drm.submit(&Command::PlaceholderVk, Some(PROBE_RING), &[])
                .ok()
                .flatten()
        });
        if silent {
            drm.lost("the host does not answer");
        }
        !silent
    }
}

impl<K: Kernel> RingPing for DrmPing<K> {}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::os::fd::{AsFd, IntoRawFd};

    use asgard_asg::capset::{Capset, Extension, serialise};
    use asgard_asg::host::{HostChannel, HostConfig};

    use super::*;

    /// A device whose memory is a file, and which writes down what it hears.
    struct Fake {
        memory: Arc<OwnedFd>,
        driver: &'static [u8],
        /// The parameter that it does not know.
        lacks: u64,
        capsets: u32,
        protocol_version: u32,
        /// How often it says that a blob is busy.
        busy: Mutex<u32>,
        /// What the next requests with this number fail with.
        fails: Mutex<Option<(u32, Errno)>>,
        heard: Mutex<Vec<String>>,
        /// The last handle that it gave.
        handle: Mutex<u32>,
    }

    impl Fake {
        fn new() -> Self {
            let (_, memory) = Mapping::create(4 << 20).unwrap();
            Self {
                memory: Arc::new(memory),
                driver: DRIVER,
                lacks: 0,
                capsets: 1 << CAPSET_ID,
                protocol_version: 1,
                busy: Mutex::default(),
                fails: Mutex::default(),
                heard: Mutex::default(),
                handle: Mutex::new(6),
            }
        }

        fn heard(&self, what: &str) -> usize {
            self.heard
                .lock()
                .iter()
                .filter(|h| h.starts_with(what))
                .count()
        }

        fn note(&self, what: impl Into<String>) {
            self.heard.lock().push(what.into());
        }
    }

    /// The argument of a request.
    fn of<T: Pod>(argument: &mut [u8]) -> &mut T {
        bytemuck::from_bytes_mut(argument)
    }

    impl Kernel for Arc<Fake> {
        unsafe fn ioctl(&self, request: u32, argument: &mut [u8]) -> Result<(), Errno> {
            assert_eq!(request >> 8 & 0xff, DRM);
            assert_eq!((request >> 16 & 0x3fff) as usize, argument.len());
            let nr = request & 0xff;
            if let Some((number, error)) = *self.fails.lock()
                && number == nr
            {
                return Err(error);
            }
            // SAFETY: the addresses lead to what their lengths say, as for the kernel.
            unsafe {
                match nr {
                    number::VERSION => {
                        let [len, address] = &mut of::<Version>(argument).strings[0];
                        let room = self.driver.len().min(*len);
                        std::ptr::copy(self.driver.as_ptr(), *address as *mut u8, room);
                        *len = self.driver.len();
                    }
                    number::GETPARAM => {
                        let get = of::<GetParam>(argument);
                        let value = match get.param {
                            lacks if lacks == self.lacks => return Err(Errno::INVAL),
                            param::SUPPORTED_CAPSET_IDS => self.capsets,
                            _ => 1,
                        };
                        (get.value as *mut u32).write(value);
                    }
                    number::GET_CAPS => {
                        let get = of::<GetCaps>(argument);
                        assert_eq!((get.capset_id, get.size as usize), (CAPSET_ID, FULL_SIZE));
                        let capset = Capset {
                            protocol_version: self.protocol_version,
                            buffer_size: 4096,
                            ..Capset::default()
                        };
                        let bytes = serialise(&capset, &Extension::default());
                        std::ptr::copy(bytes.as_ptr(), get.address as *mut u8, bytes.len());
                    }
                    number::CONTEXT_INIT => {
                        let init = of::<ContextInit>(argument);
                        let params: &[[u64; 2]] = std::slice::from_raw_parts(
                            init.params as *const [u64; 2],
                            init.num_params as usize,
                        );
                        for [param, value] in params {
                            let value = if *param == CONTEXT_DEBUG_NAME {
                                let name = CStr::from_ptr(*value as *const _);
                                name.to_string_lossy().into_owned()
                            } else {
                                value.to_string()
                            };
                            self.note(format!("context {param}={value}"));
                        }
                    }
                    number::RESOURCE_CREATE_BLOB => {
                        let create = of::<CreateBlob>(argument);
                        assert_eq!(create.blob_mem, HOST3D);
                        assert!(create.size.is_multiple_of(4096));
                        let mut handle = self.handle.lock();
                        *handle += 1;
                        (create.bo_handle, create.res_handle) = (*handle, *handle * 10);
                        let (id, flags) = (create.blob_id, create.blob_flags);
                        self.note(format!("blob {id} flags {flags}"));
                    }
                    number::EXECBUFFER => {
                        let exec = of::<ExecBuffer>(argument);
                        let bytes = std::slice::from_raw_parts(
                            exec.command as *const u8,
                            exec.size as usize,
                        );
                        let command = Command::parse(bytes).unwrap();
                        if let Command::ContextCreate { resource_id } = command {
                            assert_eq!((resource_id, exec.num_bo_handles), (70, 1));
                            let size = blob_size(4096);
                            let memory = Mapping::map(&self.memory, 4096, size).unwrap();
                            let config = HostConfig {
                                buffer_size: 4096,
                                flush_interval: 1024,
                            };
                            HostChannel::new(Arc::new(memory), config).unwrap();
                        }
                        self.note(format!("{command:?} flags {}", exec.flags));
                    }
                    number::WAIT => {
                        let mut busy = self.busy.lock();
                        if *busy > 0 {
                            *busy -= 1;
                            return Err(Errno::BUSY);
                        }
                    }
                    number::PRIME_HANDLE_TO_FD => {
                        let prime = of::<Prime>(argument);
                        prime.fd = self.memory.try_clone().unwrap().into_raw_fd();
                    }
                    // The kernel gives the same memory the same handle.
                    number::PRIME_FD_TO_HANDLE => of::<Prime>(argument).handle = 7,
                    number::RESOURCE_INFO => {
                        let info = of::<ResourceInfo>(argument);
                        info.res_handle = info.bo_handle * 10;
                    }
                    number::MAP => of::<Map>(argument).offset = 4096,
                    number::GEM_CLOSE => {
                        let handle = of::<GemClose>(argument).handle;
                        self.note(format!("close {handle}"));
                    }
                    _ => return Err(Errno::INVAL),
                }
            }
            Ok(())
        }

        fn file(&self) -> &Arc<OwnedFd> {
            &self.memory
        }
    }

    fn drm(fake: &Arc<Fake>) -> Result<Arc<Drm<Arc<Fake>>>, Error> {
        Drm::new(Arc::clone(fake), b"a program").map(Arc::new)
    }

    #[test]
    fn a_node_that_does_not_suit_says_why() {
        let refusal = |fake: Fake| match drm(&Arc::new(fake)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it suits"),
        };
        for (lacks, says) in [
            (param::FEATURES_3D, "VIRGL"),
            (param::CAPSET_QUERY_FIX, "too old"),
            (param::RESOURCE_BLOB, "older than 5.11"),
            (param::HOST_VISIBLE, "window"),
            (param::CONTEXT_INIT, "older than 5.16"),
            (param::SUPPORTED_CAPSET_IDS, "without number 3"),
        ] {
            let why = refusal(Fake {
                lacks,
                ..Fake::new()
            });
            assert!(why.contains(says), "{why}");
        }
        let why = refusal(Fake {
            driver: b"i915",
            ..Fake::new()
        });
        assert!(why.ends_with("its driver is i915"), "{why}");
        let why = refusal(Fake {
            capsets: 0b110,
            ..Fake::new()
        });
        assert!(why.contains("0x6"), "{why}");
        let why = refusal(Fake {
            protocol_version: 0,
            ..Fake::new()
        });
        assert!(why.contains("is empty"), "{why}");
    }

    #[test]
    fn no_node_and_no_right_to_one_are_told() {
        let error = open(Path::new("/nowhere/renderD128"), b"").err().unwrap();
        assert!(error.to_string().contains("/nowhere/renderD128: No such"));
        // Not a graphics device, but there.
        let error = open(Path::new("/dev/null"), b"").err().unwrap();
        assert!(
            error
                .to_string()
                .contains("/dev/null: it is not a graphics")
        );
    }

    #[test]
    fn contexts_are_of_our_capset_and_named_where_kernels_take_names() {
        let fake = Arc::new(Fake::new());
        drm(&fake).unwrap();
        for what in ["context 1=3", "context 2=64", "context 4=a program"] {
            assert_eq!(fake.heard(what), 1, "{what}");
        }
        let old = Arc::new(Fake {
            lacks: param::EXPLICIT_DEBUG_NAME,
            ..Fake::new()
        });
        drm(&old).unwrap();
        assert_eq!(old.heard("context"), 2);
    }

    #[test]
    fn rings_are_initialised_pinged_and_closed() {
        let fake = Arc::new(Fake::new());
        *fake.busy.lock() = 1;
        let mut ring = drm(&fake).unwrap().create_ring().unwrap();
        assert!(!ring.same_kernel);
        assert_eq!(fake.heard("ContextCreate"), 1);
        assert_eq!(
            asgard_asg::ring::Memory::size(&*ring.memory),
            blob_size(4096)
        );
        ring.ping.ping().unwrap();
        // Neither a fence nor a blob, so that the kernel makes none.
        assert_eq!(fake.heard("ContextPing { resource_id: 70 } flags 0"), 1);
        assert!(ring.ping.peer_alive());
        assert_eq!(fake.heard("close"), 0);
        drop(ring);
        assert_eq!(fake.heard("close 7"), 1);
    }

    #[test]
    fn a_host_that_does_not_start_a_ring_is_given_up() {
        let fake = Arc::new(Fake::new());
        *fake.busy.lock() = u32::MAX;
        let error = drm(&fake).unwrap().create_ring().err().unwrap();
        assert!(error.to_string().contains("does not answer"), "{error}");
        assert_eq!(fake.heard("close 7"), 1);
    }

    #[test]
    fn a_device_that_is_gone_is_noticed() {
        let fake = Arc::new(Fake::new());
        let drm = drm(&fake).unwrap();
        let mut ring = drm.create_ring().unwrap();
        *fake.fails.lock() = Some((number::EXECBUFFER, Errno::NODEV));
        assert!(ring.ping.ping().is_err());
        assert!(!ring.ping.peer_alive());
    }

    #[test]
    fn a_file_that_cannot_be_imported_says_nothing_of_the_device() {
        let fake = Arc::new(Fake::new());
        let drm = drm(&fake).unwrap();
        let mut ring = drm.create_ring().unwrap();
        *fake.fails.lock() = Some((number::PRIME_FD_TO_HANDLE, Errno::NODEV));
        let error = drm.import(fake.memory.as_fd()).err().unwrap();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(ring.ping.peer_alive());
        ring.ping.ping().unwrap();
    }

    #[test]
    fn memory_has_the_flags_that_its_use_needs() {
        let fake = Arc::new(Fake::new());
        let device = drm(&fake).unwrap();
        let blob = device.create_blob(5, 100, false).unwrap();
        assert_eq!(blob.map().unwrap().len(), 4096);
        device.create_blob(6, 4096, true).unwrap();
        assert_eq!(fake.heard("blob 5 flags 1"), 1);
        assert_eq!(fake.heard("blob 6 flags 7"), 1);
        drop(blob);
        assert_eq!((fake.heard("close 7"), fake.heard("close 8")), (1, 1));
        assert!(device.create_blob(7, u64::MAX, false).is_err());
    }

    #[test]
    fn a_handle_is_closed_with_the_last_that_stands_for_it() {
        let fake = Arc::new(Fake::new());
        let device = drm(&fake).unwrap();
        let first = device.create_blob(5, 4096, true).unwrap();
        let file = device.export(&first).unwrap();
        let second = device.import(file.as_fd()).unwrap();
        let third = device.import(file.as_fd()).unwrap();
        assert_eq!((second.resource_id, second.size), (70, 4 << 20));
        drop(first);
        drop(third);
        assert_eq!(fake.heard("close"), 0);
        drop(second);
        assert_eq!(fake.heard("close 7"), 1);
        // And from then on it can be somebody else's.
        drop(device.import(file.as_fd()).unwrap());
        assert_eq!(fake.heard("close 7"), 2);
    }

    #[test]
    fn sync_files_of_different_queues_do_not_wait_for_each_other() {
        let rings: std::collections::BTreeSet<u8> = (1..=62).map(ring_of).collect();
        assert_eq!(rings.len(), 62);
        assert!(rings.iter().all(|ring| (2..64).contains(ring)));
        assert_eq!(ring_of(0), 0);
    }

    #[test]
    fn a_silent_host_is_probed_and_then_given_up() {
        let mut probe = Probe::default();
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let fence =
            |value| rustix::event::eventfd(value, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let mut asked = 0;
        // Waits that end within a second cost nothing.
        for wait in 0..3 {
            for step in 0..9 {
                let now = at(f64::from(wait) * 2.0 + f64::from(step) * 0.1);
                assert!(!probe.is_silent(now, || panic!("asked at once")));
            }
        }
        // A busy host answers, as often as it is asked.
        for step in 0..50 {
            let now = at(10.0 + f64::from(step) * 0.1);
            let silent = probe.is_silent(now, || {
                asked += 1;
                Some(fence(1))
            });
            assert!(!silent);
        }
        assert!((2..=5).contains(&asked), "{asked}");
        // One that does not is given up.
        let mut given_up = None;
        for step in 0..400 {
            let now = 20.0 + f64::from(step) * 0.1;
            if probe.is_silent(at(now), || Some(fence(0))) {
                given_up = Some(now - 20.0);
                break;
            }
        }
        let after = given_up.unwrap();
        assert!((31.0..32.0).contains(&after), "{after}");
    }
}
