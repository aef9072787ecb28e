//! Who is connected: what `CLIENT LIST`, `INFO` and the limit on connections look at.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use crate::resp::Protocol;

/// All client connections of this process.
///
/// Shared by the connections, but off their hot path: the lock is taken when one opens, closes,
/// names itself, or asks for the list; the counters are atomic.
#[derive(Debug, Default)]
pub struct Registry {
    clients: Mutex<BTreeMap<u64, Profile>>,
    last_id: AtomicU64,
    commands: AtomicU64,
    refused: AtomicU64,
}

/// What is known of a client besides its commands.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Where it connected from.
    pub peer: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
    /// When.
    pub since: Instant,
    /// Its own name for itself; may be empty.
    pub name: String,
    /// The library it uses, in the library's words.
    pub library: String,
    /// That library's version.
    pub library_version: String,
    /// The protocol it speaks.
    pub protocol: Protocol,
}

/// A client's entry; dropping it removes the client from the list.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    /// The client's number: unique in the life of the process, ascending.
    pub id: u64,
}

impl Registry {
    /// Adds a client, unless there are `connections_max` already.
    pub fn admit(self: &Arc<Self>, profile: Profile, connections_max: u32) -> Option<Registration> {
        let mut clients = self.lock();
        if clients.len() >= connections_max as usize {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        clients.insert(id, profile);
        Some(Registration {
            registry: Arc::clone(self),
            id,
        })
    }

    /// All clients, the oldest first.
    pub fn list(&self) -> Vec<(u64, Profile)> {
        self.lock()
            .iter()
            .map(|(&id, profile)| (id, profile.clone()))
            .collect()
    }

    /// Clients at this moment.
    pub fn connected(&self) -> usize {
        self.lock().len()
    }

    /// Clients since the process started.
    pub fn accepted(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    /// Clients turned away because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts commands that were received.
    pub fn count_commands(&self, commands: u64) {
        self.commands.fetch_add(commands, Ordering::Relaxed);
    }

    /// Commands since the process started.
    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Profile>> {
        // Each change is one insertion or removal: a panic elsewhere leaves it whole.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registration {
    /// Changes what is known of this client.
    pub fn update(&self, change: impl FnOnce(&mut Profile)) {
        if let Some(profile) = self.registry.lock().get_mut(&self.id) {
            change(profile);
        }
    }

    /// What is known of this client.
    pub fn profile(&self) -> Option<Profile> {
        self.registry.lock().get(&self.id).cloned()
    }

    /// The list that this client is on.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}
