//! Starts the threads of a server and ends them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::effect::Probe;
use super::error::{SLOT_TOKENS_MIN, ServeError};
use super::harvest::Writer;
use super::http::{App, inside};
use super::live::Registry;
use super::start::Loader;
use super::state::Store;
use super::transfers;
use super::worker::{self, Board, Command};
use super::{Config, Say};
use crate::control::{Door, Inputs, OpenDoor};
use crate::engine::host::{Host, Hosted};
use crate::engine::watch::Watched;
use crate::engine::{Engine, OpenOptions};
use crate::record::Clock;

/// Threads that answer clients; the model has its own.
const HTTP_THREADS: usize = 2;
/// Time for the last bytes to leave once everything has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A server that runs.
pub struct Server {
    app: Arc<App>,
    addresses: Vec<SocketAddr>,
    runtime: Runtime,
    decoder: Option<JoinHandle<()>>,
    writer: Option<Writer>,
    door: Option<OpenDoor>,
}

impl Server {
    /// Open the model, load its adapters, listen.
    ///
    /// fails: the model or an adapter does not load, two adapters have one name, an address is
    /// taken.
    pub fn start(
        engine: &dyn Engine,
        config: Config,
        clock: Arc<dyn Clock>,
        say: Say,
    ) -> Result<Self, ServeError> {
        let (context, slots) = (config.context, config.slots.max(1));
        if context > 0 && context / slots < SLOT_TOKENS_MIN {
            return Err(ServeError::Context { context, slots });
        }
        let inputs = inputs(&config)?;
        let options = OpenOptions {
            threads: config.threads,
            gpu_layers: config.gpu_layers,
            device: config.device.clone(),
            context: context / slots,
            repack: config.repack,
            memory: config.memory,
            chat: config.chat.clone(),
        };
        let base = Watched::open(&config.model);
        let mut hosted = engine.host(&config.model, &options, config.slots)?;
        introduce(&*hosted.host, &say);
        let name = model_name(&config, &hosted.host.info().name);
        let (registry, store, probe) = adapters(&mut hosted, &config, &name, &say)?;
        let keeping = config.harvest.as_ref();
        let kept = keeping.map(|keeping| Writer::start(keeping, Arc::clone(&clock), &say));
        let (writer, keeper) = kept.transpose()?.unzip();
        let (sender, commands) = mpsc::channel();
        let board = Arc::new(Board::new(&name));
        let app = Arc::new(App::new(
            (config, inputs),
            name,
            Arc::clone(&hosted.host),
            registry,
            store,
            base,
            sender,
            Arc::clone(&board),
            Arc::clone(&clock),
            say,
            writer.as_ref().map(|writer| Arc::clone(&writer.counts)),
        ));
        let slots = app.config.slots;
        let decoder = std::thread::Builder::new().name("decode".into());
        let decoder = decoder
            .spawn(move || {
                let keeper = keeper.as_ref();
                worker::run(hosted, &*clock, (slots, probe), &commands, &board, keeper);
            })
            .map_err(ServeError::Threads)?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(HTTP_THREADS)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ServeError::Threads)?;
        let mut server = Self {
            app,
            addresses: Vec::new(),
            runtime,
            decoder: Some(decoder),
            writer,
            door: None,
        };
        server.listen()?;
        if server.app.config.resume_transfers {
            transfers::resume(&server.app);
        }
        Ok(server)
    }

    fn listen(&mut self) -> Result<(), ServeError> {
        let mut port = self.app.config.port;
        let mut door = Door::new().map_err(ServeError::Threads)?;
        for host in &self.app.config.hosts {
            let bound = door.bind(host, port);
            let address = bound.map_err(|source| ServeError::Listen {
                address: format!("{host}:{port}"),
                source,
            })?;
            // A free port is chosen once.
            port = address.port();
            if !address.ip().is_loopback() && !self.app.config.has_keys() {
                (self.app.say)(&format!(
                    "warning: whoever reaches {address} may send requests and exchange adapters; an API key lets in only those who have it"
                ));
            }
            self.addresses.push(address);
        }
        let inside = inside(&self.app, self.runtime.handle().clone());
        let opened = door.open(inside, self.app.config.limits.connections.clone());
        self.door = Some(opened.map_err(ServeError::Threads)?);
        Ok(())
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Wait for a signal that ends the process (SIGINT, SIGTERM), then stop. A second signal ends it
    /// at once.
    ///
    /// fails: signals cannot be listened for.
    pub fn run(self) -> Result<(), ServeError> {
        let say = Arc::clone(&self.app.say);
        self.runtime.block_on(async {
            let mut ends = [
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ];
            let [Ok(interrupt), Ok(terminate)] = &mut ends else {
                let error = ends.into_iter().find_map(Result::err);
                return Err(ServeError::Threads(
                    error.unwrap_or_else(|| std::io::Error::other("no signals")),
                ));
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            Ok(())
        })?;
        say(
            "stopping: running answers are finished, new requests refused; a second signal ends them too",
        );
        self.stop();
        Ok(())
    }

    /// Refuse what is new, let what runs end within `shutdown_seconds_max`, or until a signal
    /// comes, and end it then.
    pub fn stop(mut self) {
        self.app.stopping.store(true, Ordering::SeqCst);
        let patience = Duration::from_secs(self.app.config.limits.shutdown_seconds_max);
        let all = self.door.as_ref().map(|door| {
            door.close();
            door.ended()
        });
        let mut all = pin!(OptionFuture::from(all));
        self.runtime.block_on(async {
            let ended = async {
                let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
                    return std::future::pending().await;
                };
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            };
            let over = tokio::select! { _ = &mut all => true, () = tokio::time::sleep(patience) => false, () = ended => false };
            self.app.send(Command::Stop);
            if !over {
                _ = tokio::time::timeout(LAST_WORDS, all).await;
            }
        });
        self.end();
    }

    fn end(&mut self) {
        self.app.send(Command::Stop);
        self.door = None;
        if let Some(transfers) = &self.app.transfers {
            transfers.close();
        }
        if let Some(decoder) = self.decoder.take() {
            _ = decoder.join();
        }
        if let Some(writer) = self.writer.take() {
            writer.end();
        }
        if let Some(store) = &self.app.store {
            store.release();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.app.stopping.store(true, Ordering::SeqCst);
        self.end();
    }
}

/// The folders whose files a transfer may name.
///
/// fails: one of them is not there
fn inputs(config: &Config) -> Result<Inputs, ServeError> {
    let folders = if config.inputs.is_empty() {
        let model = match config.model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let kept = config.harvest.as_ref().map(|keeping| &keeping.folder);
        let usual = config
            .folder
            .iter()
            .chain(kept.filter(|folder| folder.exists()));
        usual.cloned().chain([model.to_owned()]).collect()
    } else {
        config.inputs.clone()
    };
    Inputs::new(folders).map_err(|(path, source)| ServeError::Folder { path, source })
}

/// Say what is to be known of the model.
fn introduce(host: &dyn Host, say: &Say) {
    if let Some(note) = host.chat().info().note() {
        say(&note);
    }
    if let Some(warning) = host.info().beyond_training() {
        say(&format!("warning: {warning}"));
    }
    if let Some(reason) = host.chat().refusal() {
        say(&format!("warning: conversations are refused: {reason}"));
    }
}

/// The adapters of the start, and where it is kept what is live.
fn adapters(
    hosted: &mut Hosted,
    config: &Config,
    name: &str,
    say: &Say,
) -> Result<(Registry, Option<Arc<Store>>, Probe), ServeError> {
    let store = config.folder.as_deref().map(Store::open);
    let (store, notes) = store.unzip();
    notes.iter().flatten().for_each(|note| say(note));
    let store = store.map(Arc::new);
    let mut loader = Loader {
        host: &*hosted.host,
        decoder: &mut *hosted.decoder,
        probe: Probe::new(&*hosted.host)?,
        config,
        base: name,
        say,
        elsewhere: BTreeSet::new(),
    };
    let registry = loader.load(store.as_deref())?;
    Ok((registry, store, loader.probe))
}

/// What the base is called.
fn model_name(config: &Config, own: &str) -> String {
    if config.alias.is_empty() {
        own.to_owned()
    } else {
        config.alias.clone()
    }
}
