//! One guest process: its renderer context and its rings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Instant;

use crate::Error;
use crate::device::{Config, Summary};
use crate::renderer;
use crate::resource::{Origin, Resource};
use crate::ring_thread::{Begin, RingThread, Rings, Successor};

#[derive(Debug)]
pub(crate) struct Context {
    ctx_id: u32,
    name: String,
    renderer: Arc<dyn renderer::Context>,
    rings: BTreeMap<u32, RingThread>,
    /// Told to stop, and perhaps still running.
    retired: Vec<RingThread>,
    shared: Arc<Rings>,
}

impl Context {
    pub(crate) fn new(
        ctx_id: u32,
        name: &str,
        renderer: Arc<dyn renderer::Context>,
        successor: Option<Successor>,
    ) -> Self {
        Self {
            ctx_id,
            name: name.to_owned(),
            renderer,
            rings: BTreeMap::new(),
            retired: Vec::new(),
            shared: Arc::new(Rings::new(successor)),
        }
    }

    pub(crate) fn renderer(&self) -> &dyn renderer::Context {
        &*self.renderer
    }

    /// Sets the ring up and starts its thread. The ring is initialised when this returns.
    pub(crate) fn start_ring(
        &mut self,
        res_id: u32,
        resource: &Resource,
        config: &Config,
        begin: Begin,
    ) -> Result<(), Error> {
        if *resource.origin() != Origin::Shared || self.rings.contains_key(&res_id) {
            return Err(Error::NotForRing(res_id));
        }
        self.retired.retain(|ring| !ring.is_finished());
        let limit = config.limits.rings;
        if self.rings.len() + self.retired.len() >= limit {
            return Err(Error::Limit {
                what: "rings",
                limit: limit as u64,
            });
        }
        let ring = RingThread::start(
            self.ctx_id,
            res_id,
            resource,
            config,
            &self.renderer,
            &self.shared,
            begin,
        )?;
        self.rings.insert(res_id, ring);
        Ok(())
    }

    pub(crate) fn ping(&self, res_id: u32) -> Result<(), Error> {
        let ring = self.rings.get(&res_id).ok_or(Error::NoRing(res_id))?;
        self.shared.pinged();
        ring.wake();
        Ok(())
    }

    /// The resource is no longer this context's. Nobody waits for the ring thread: it drains its
    /// ring, and may sit in the driver for a while.
    pub(crate) fn forget(&mut self, res_id: u32) {
        self.renderer.remove_resource(res_id);
        if let Some(ring) = self.rings.remove(&res_id) {
            ring.stop();
            self.retired.push(ring);
        }
    }

    /// Ends the context on a thread of its own.
    pub(crate) fn close(self) -> Closing {
        let poisoned = self.renderer.error();
        if let Some(error) = &poisoned {
            tracing::warn!(ctx_id = self.ctx_id, name = ?self.name, "the context had failed: {}", error.escape_debug());
        }
        self.renderer.poison("the context was destroyed");
        let rings: Vec<RingThread> = self.rings.into_values().chain(self.retired).collect();
        for ring in &rings {
            ring.stop();
        }
        let (send, result) = sync_channel(1);
        let (renderer, shared) = (self.renderer, self.shared);
        let work = move || {
            for ring in rings {
                ring.join();
            }
            let mut summary = shared.summary(&renderer.stats());
            summary.poisoned = u64::from(poisoned.is_some());
            renderer.close();
            // Nobody may be left to hear it.
            let _ = send.send(summary);
        };
        if let Err(error) = std::thread::Builder::new()
            .name("closing".to_owned())
            .spawn(work)
        {
            tracing::error!("cannot start a thread to end a context: {error}");
        }
        Closing { result }
    }
}

/// A context that is on its way out.
#[derive(Debug)]
pub(crate) struct Closing {
    result: Receiver<Summary>,
}

impl Closing {
    /// What went through, once it is gone.
    pub(crate) fn poll(&mut self) -> Option<Summary> {
        match self.result.try_recv() {
            Ok(summary) => Some(summary),
            Err(TryRecvError::Disconnected) => Some(Summary::default()),
            Err(TryRecvError::Empty) => None,
        }
    }

    /// The same, with patience.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Option<Summary> {
        match self
            .result
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            Ok(summary) => Some(summary),
            Err(RecvTimeoutError::Disconnected) => Some(Summary::default()),
            Err(RecvTimeoutError::Timeout) => None,
        }
    }
}
