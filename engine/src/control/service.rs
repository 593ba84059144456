//! Both services, answered by one implementation. What can go wrong is what a caller
//! sends: it is checked here and answered with a gRPC status that says what to send.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::bootstrap::{LoadMode, Refusal, RefusalCode, StartRequest, State};
use crate::control::auth::{Policy, Scope};
use crate::control::proto::change_stream::change_stream_server::ChangeStream;
use crate::control::proto::kasho::change_stream_service_server::ChangeStreamService;
use crate::control::proto::kasho::{
    AbortBootstrapRequest, AcceptRequest, AcceptResponse, AckRequest, AckResponse,
    BootstrapResponse, CompleteBootstrapRequest, DecideDdlRequest, DecideDdlResponse,
    RetryDeadLettersRequest, RetryDeadLettersResponse, RetryOutcome as ProtoOutcome,
    StartBootstrapRequest, StatusRequest, StatusResponse, StreamRequest,
    start_bootstrap_request::Load,
};
use crate::control::stream::Changes;
use crate::control::{Accepted, Answer, Call, Reply, RetryOutcome, Shared};
use crate::position::EpochPosition;
use crate::sink::redis::RedisConnector;

/// One row may be as large as PostgreSQL's largest value; the default of 4 MiB would end
/// the stream of a client that cannot do anything about it. Requests are small.
macro_rules! limits {
    ($server:expr) => {
        $server.max_encoding_message_size(usize::MAX).max_decoding_message_size(64 * 1024)
    };
}
pub(super) use limits;

/// The implementation behind both names.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) mailbox: mpsc::Sender<Call>,
    pub(super) redis: RedisConnector,
    pub(super) policy: Policy,
    pub(super) shutdown: CancellationToken,
}

impl Service {
    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, Status> {
        let gone = || Status::unavailable("the service is shutting down");
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(call(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(|refusal| refused(&refusal))
    }

    fn status(&self) -> StatusResponse {
        let clients = self.shared.clients.load(Ordering::Relaxed);
        self.shared.status.load().to_proto(clients, self.shared.since.elapsed())
    }

    async fn start(&self, request: StartBootstrapRequest) -> Result<BootstrapResponse, Status> {
        if !request.tables.is_empty() {
            let tables = request.tables;
            let answer = self.ask(|reply| Call::LoadAgain { tables, reply }).await?;
            return Ok(response("loading", answer));
        }
        let request = start_request(request)?;
        let answer = self.ask(|reply| Call::Start { request, reply }).await?;
        Ok(response("started", answer))
    }

    async fn complete(&self, force: bool) -> Result<BootstrapResponse, Status> {
        let answer = self.ask(|reply| Call::Complete { force, reply }).await?;
        Ok(response("completed", answer))
    }

    async fn retry(&self, ids: Vec<String>) -> Result<RetryDeadLettersResponse, Status> {
        let outcomes = self.ask(|reply| Call::Retry { ids, reply }).await?;
        let told = outcomes.into_iter().map(|RetryOutcome { id, outcome, detail }| ProtoOutcome {
            id,
            outcome,
            detail,
        });
        Ok(RetryDeadLettersResponse { outcomes: told.collect() })
    }

    async fn accept(&self, digest: String) -> Result<AcceptResponse, Status> {
        let Accepted { digest, told } = self.ask(|reply| Call::Accept { digest, reply }).await?;
        Ok(AcceptResponse { digest, told })
    }

    async fn decide_ddl(&self, request: DecideDdlRequest) -> Result<DecideDdlResponse, Status> {
        let asked: Result<EpochPosition, _> = request.position.parse();
        let position = asked.map_err(|error| invalid("position", &error))?.position;
        let done = request.done;
        let told = self.ask(|reply| Call::DecideDdl { position, done, reply }).await?;
        Ok(DecideDdlResponse { told })
    }

    async fn abort(&self, force: bool) -> Result<BootstrapResponse, Status> {
        let answer = self.ask(|reply| Call::Abort { force, reply }).await?;
        Ok(response("aborted", answer))
    }
}

pub(super) fn invalid(field: &str, error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(format!("{field}: {error}"))
}

fn refused(refusal: &Refusal) -> Status {
    let code = match refusal.code {
        RefusalCode::FailedPrecondition => Code::FailedPrecondition,
        RefusalCode::InvalidArgument => Code::InvalidArgument,
        RefusalCode::Unavailable => Code::Unavailable,
        RefusalCode::Internal => Code::Internal,
    };
    Status::new(code, &refusal.text)
}

fn start_request(request: StartBootstrapRequest) -> Result<StartRequest, Status> {
    let start_lsn = match request.start_lsn.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| invalid("start_lsn", &error))?),
    };
    let mode = match Load::try_from(request.load) {
        Ok(Load::Unspecified) if start_lsn.is_none() => LoadMode::Direct,
        Ok(Load::Unspecified | Load::External) => LoadMode::External,
        Ok(Load::Direct) => LoadMode::Direct,
        Ok(Load::None) => LoadMode::None,
        Err(_) => return Err(Status::invalid_argument("load: unknown value")),
    };
    Ok(StartRequest {
        start_lsn,
        snapshot_name: Some(request.snapshot_name).filter(|name| !name.is_empty()),
        mode,
        discard: request.discard,
        force: request.force,
    })
}

fn response(status: &str, answer: Answer) -> BootstrapResponse {
    BootstrapResponse {
        status: status.to_owned(),
        previous_state: answer.previous.to_string(),
        current_state: answer.current.to_string(),
        accumulated_changes: i64::try_from(answer.accumulated_changes).unwrap_or(i64::MAX),
        ready_to_stream: answer.ready_to_stream || answer.current == State::Streaming,
        start_lsn: answer.start_lsn.map(|lsn| lsn.to_string()).unwrap_or_default(),
        snapshot_name: answer.snapshot_name.unwrap_or_default(),
        epoch: answer.epoch.map_or(0, |epoch| epoch.0),
    }
}

/// The same calls under both names.
macro_rules! answer_as {
    ($service:ident) => {
        #[tonic::async_trait]
        impl $service for Service {
            type StreamStream = Changes;

            async fn get_status(
                &self,
                request: Request<StatusRequest>,
            ) -> Result<Response<StatusResponse>, Status> {
                self.policy.allow(&request, Scope::Read)?;
                Ok(Response::new(self.status()))
            }

            async fn start_bootstrap(
                &self,
                request: Request<StartBootstrapRequest>,
            ) -> Result<Response<BootstrapResponse>, Status> {
                self.policy.allow(&request, Scope::Admin)?;
                self.start(request.into_inner()).await.map(Response::new)
            }

            async fn complete_bootstrap(
                &self,
                request: Request<CompleteBootstrapRequest>,
            ) -> Result<Response<BootstrapResponse>, Status> {
                self.policy.allow(&request, Scope::Admin)?;
                self.complete(request.into_inner().force).await.map(Response::new)
            }

            async fn abort_bootstrap(
                &self,
                request: Request<AbortBootstrapRequest>,
            ) -> Result<Response<BootstrapResponse>, Status> {
                self.policy.allow(&request, Scope::Admin)?;
                self.abort(request.into_inner().force).await.map(Response::new)
            }

            async fn retry_dead_letters(
                &self,
                request: Request<RetryDeadLettersRequest>,
            ) -> Result<Response<RetryDeadLettersResponse>, Status> {
                self.policy.allow(&request, Scope::Admin)?;
                self.retry(request.into_inner().ids).await.map(Response::new)
            }

            async fn accept_plugin(
                &self,
                request: Request<AcceptRequest>,
            ) -> Result<Response<AcceptResponse>, Status> {
                self.policy.allow(&request, Scope::Admin)?;
                self.accept(request.into_inner().digest).await.map(Response::new)
            }

            async fn decide_ddl(
                &self,
                request: Request<DecideDdlRequest>,
            ) -> Result<Response<DecideDdlResponse>, Status> {
                self.policy.allow(&request, Scope::Admin)?;
                self.decide_ddl(request.into_inner()).await.map(Response::new)
            }

            async fn stream(
                &self,
                request: Request<StreamRequest>,
            ) -> Result<Response<Changes>, Status> {
                self.policy.allow(&request, Scope::Read)?;
                self.changes(request.into_inner()).await.map(Response::new)
            }

            async fn ack(
                &self,
                request: Request<AckRequest>,
            ) -> Result<Response<AckResponse>, Status> {
                self.policy.allow(&request, Scope::Read)?;
                self.acknowledge(request.into_inner()).await.map(Response::new)
            }
        }
    };
}

answer_as!(ChangeStreamService);
answer_as!(ChangeStream);
