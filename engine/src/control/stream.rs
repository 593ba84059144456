//! Stream and Ack: read Redis, on a connection of their own, for one client.
//!
//! What can go wrong: Redis is away, the position was trimmed or belongs to another
//! epoch, an entry is not ours. Each ends the call with a status; a client goes on from
//! the last position it has.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::control::Shared;
use crate::control::change::{change, passed};
use crate::control::proto::kasho::{AckRequest, AckResponse, Change, StreamRequest};
use crate::control::service::{Service, invalid};
use crate::position::EpochPosition;
use crate::reader::{From, ReaderError, StreamReader};
use crate::sink::redis::{RedisConnector, RedisStore};
use crate::sink::store::{Connect, Registry, Store, StoreError};
use crate::sink::{SinkError, consumers};

/// The changes of one Stream call.
pub(super) type Changes = Pin<Box<dyn Stream<Item = Result<Change, Status>> + Send>>;

/// What is read from Redis at once.
const PAGE_BYTES: usize = 256 * 1024;
/// Changes that wait for a slow client, beside HTTP/2's own window.
const QUEUE: usize = 16;
/// How long a reader waits for something new before it looks whether it is still wanted.
const WAIT: Duration = Duration::from_secs(5);
/// How often a client that came before the first bootstrap is looked after.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts a call as long as it is open.
struct Client(Arc<Shared>);

impl Client {
    fn new(shared: &Arc<Shared>) -> Client {
        shared.clients.fetch_add(1, Ordering::Relaxed);
        Client(Arc::clone(shared))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service {
    pub(super) async fn changes(&self, request: StreamRequest) -> Result<Changes, Status> {
        let from = match request.position.as_str() {
            "" => From::Live,
            "bootstrap" => From::Start,
            text => From::After(text.parse().map_err(|error| invalid("position", &error))?),
        };
        if !request.consumer.is_empty() {
            self.register(&request.consumer, from).await?;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (redis, form) = (self.redis.clone(), (request.raw, !request.consumer.is_empty()));
        let (client, shutdown) = (Client::new(&self.shared), self.shutdown.clone());
        tokio::spawn(async move {
            let _client = client;
            let reading = read(&redis, from, form, &sender);
            let ended = tokio::select! {
                ended = reading => ended,
                () = shutdown.cancelled() => Err(Status::unavailable("the service is shutting down")),
                () = sender.closed() => return,
            };
            if let Err(status) = ended {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    /// A consumer that names itself is registered, and has what it says it has.
    async fn register(&self, consumer: &str, from: From) -> Result<(), Status> {
        let mut store = self.redis.connect().await.map_err(|e| store_status(&e))?;
        consumers::add(&mut store, consumer).await.map_err(|e| sink_status(&e))?;
        match from {
            From::After(at) => acknowledge(&mut store, consumer, at).await,
            From::Start | From::Live => Ok(()),
        }
    }

    pub(super) async fn acknowledge(&self, request: AckRequest) -> Result<AckResponse, Status> {
        let AckRequest { consumer, position } = request;
        let position = position.parse().map_err(|error| invalid("position", &error))?;
        let mut store = self.redis.connect().await.map_err(|e| store_status(&e))?;
        acknowledge(&mut store, &consumer, position).await?;
        Ok(AckResponse {})
    }
}

async fn acknowledge<S: Registry + Store>(
    store: &mut S,
    consumer: &str,
    at: EpochPosition,
) -> Result<(), Status> {
    let epoch = match at.epoch {
        Some(epoch) => epoch,
        None => {
            let found = store.inspect().await.map_err(|e| store_status(&e))?;
            let checkpoint = found.checkpoint.ok_or_else(|| status(&ReaderError::NoEpoch))?;
            checkpoint.epoch
        }
    };
    let done = consumers::acknowledge(store, consumer, epoch, at.position).await;
    done.map_err(|error| sink_status(&error))
}

/// Reads until the client has gone.
async fn read(
    redis: &RedisConnector,
    from: From,
    (raw, named): (bool, bool),
    to: &mpsc::Sender<Result<Change, Status>>,
) -> Result<(), Status> {
    let mut reader = open(redis, from).await?;
    loop {
        let Some(entry) = reader.next(WAIT).await.map_err(|error| status(&error))? else {
            continue;
        };
        let epoch = reader.epoch();
        let passed = || named.then(|| passed(epoch, &entry)).flatten();
        if let Some(change) = change(epoch, &entry, raw).or_else(passed)
            && to.send(Ok(change)).await.is_err()
        {
            return Ok(());
        }
    }
}

/// A client may come before the first bootstrap, as it may with the original: it waits.
async fn open(redis: &RedisConnector, from: From) -> Result<StreamReader<RedisStore>, Status> {
    loop {
        let store = redis.connect().await.map_err(|error| store_status(&error))?;
        match StreamReader::open(store, from, PAGE_BYTES).await {
            Ok(reader) => return Ok(reader),
            Err(ReaderError::NoEpoch) => tokio::time::sleep(PATIENCE).await,
            Err(error) => return Err(status(&error)),
        }
    }
}

fn status(error: &ReaderError) -> Status {
    match error {
        ReaderError::Store(error) => store_status(error),
        ReaderError::OutOfRange { .. } | ReaderError::Beyond { .. } => {
            Status::out_of_range(error.to_string())
        }
        ReaderError::OtherEpoch { .. } | ReaderError::NoEpoch => {
            Status::failed_precondition(error.to_string())
        }
        ReaderError::Decode(_) | ReaderError::Torn { .. } => Status::data_loss(error.to_string()),
    }
}

fn store_status(error: &StoreError) -> Status {
    Status::unavailable(error.to_string())
}

fn sink_status(error: &SinkError) -> Status {
    match error {
        SinkError::Consumer(text) => Status::invalid_argument(text),
        error => Status::unavailable(error.to_string()),
    }
}
