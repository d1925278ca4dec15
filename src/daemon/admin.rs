//! The daemon's own door: the commands' calls, answered.

use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hermitfs_api::{Location, NameBuf};
use hermitfs_proto::admin::v1 as proto;
use hermitfs_proto::admin::v1::admin_server::{Admin, AdminServer};
use hermitfs_proto::admin::v1::{abort_reply, stop_reply};
use hermitfs_replicate::{Rate, Reached, Replicate, Verified};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream, WatchStream};
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::asker;
use super::bricks::Served;
use super::cutover::Asked;
use super::serve::Daemon;
use super::status::Asked as Answering;
use super::{cutover, errors, handover};
use crate::past::{self, End, How};

type Answer<T> = Result<Response<T>, Status>;
type Flow<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What can be cut over, or given up.
#[derive(Clone)]
pub(crate) enum Ending {
    Mounted(Arc<Daemon>),
    Served(Arc<Served>),
}

impl Ending {
    fn remember(&self, how: How, by: String) {
        let (record, slot) = match self {
            Ending::Mounted(daemon) => (&daemon.record, &daemon.slot),
            Ending::Served(served) => (&served.record, &served.slot),
        };
        End::of(record, how, by).remember(slot.state_dir());
    }
}

/// Who asks.
fn caller<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<UdsConnectInfo>();
    past::person(
        peer.and_then(|info| info.peer_cred)
            .and_then(|peer| peer.pid()),
    )
}

/// Answers until it is dropped.
pub(crate) async fn serve(asked: Arc<dyn Answering>, ending: Ending, listener: UnixListener) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("nobody can be answered: {error}"),
    };
    let service = AdminServer::with_interceptor(Door { asked, ending }, only_root);
    let served = Server::builder()
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await;
    if let Err(error) = served {
        tracing::error!("the admin door is shut: {error}");
    }
}

/// The socket is in a directory that only root can enter; whoever came by it is looked at all
/// the same.
fn only_root(request: Request<()>) -> Result<Request<()>, Status> {
    let peer = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred);
    match peer {
        Some(peer) if peer.uid() == 0 => Ok(request),
        _ => Err(Status::permission_denied("only root may ask")),
    }
}

struct Door {
    asked: Arc<dyn Answering>,
    ending: Ending,
}

impl Door {
    fn pair(&self) -> Result<Arc<Replicate>, Status> {
        let none = || Status::failed_precondition("there is no pair here: nothing is to be healed");
        self.asked.pair().ok_or_else(none)
    }
}

/// Runs what waits for disks away from the thread that answers.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Status::internal("a bug stopped this; the daemon's log has it"))
}

#[tonic::async_trait]
impl Admin for Door {
    type StatusStream = Flow<proto::StatusReply>;

    async fn status(&self, request: Request<proto::StatusRequest>) -> Answer<Self::StatusStream> {
        if request.into_inner().follow {
            let changes = WatchStream::new(self.asked.changes());
            return Ok(Response::new(Box::pin(changes.map(Ok))));
        }
        let asked = self.asked.clone();
        let now = apart(move || asked.now()).await?;
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(now)))))
    }

    type HealStream = Flow<proto::HealProgress>;

    async fn heal(&self, request: Request<proto::HealRequest>) -> Answer<Self::HealStream> {
        let pair = self.pair()?;
        let request = request.into_inner();
        let location = location(&request.path)?;
        let (sender, receiver) = mpsc::channel(1);
        // A thread of its own: the caller may wait for hours.
        let spawned = std::thread::Builder::new()
            .name("heal".into())
            .spawn(move || {
                heal(&pair, &location, &request, &sender);
            });
        spawned.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn errors(&self, _: Request<proto::ErrorsRequest>) -> Answer<proto::ErrorsReply> {
        let pair = self.pair()?;
        let (errors, losses) = apart(move || (pair.errors(), pair.losses())).await?;
        Ok(Response::new(errors::reply(errors, losses)))
    }

    async fn waive(&self, request: Request<proto::WaiveRequest>) -> Answer<proto::WaiveReply> {
        let (pair, request) = (self.pair()?, request.into_inner());
        let waived = apart(move || errors::waive(&pair, &request)).await?;
        waived.map(Response::new).map_err(Status::invalid_argument)
    }

    async fn throttle(
        &self,
        request: Request<proto::ThrottleRequest>,
    ) -> Answer<proto::ThrottleReply> {
        let pair = self.pair()?;
        if let Some(limit) = request.into_inner().limit {
            tracing::info!(
                bytes_a_second = limit,
                "limited by an administrator (0: not)"
            );
            pair.set_limit(Rate::new(limit));
        }
        let limit = pair.limit().map(Rate::bytes_a_second);
        Ok(Response::new(proto::ThrottleReply { limit }))
    }

    type CutoverStream = Flow<proto::CutoverReply>;

    async fn cutover(
        &self,
        request: Request<proto::CutoverRequest>,
    ) -> Answer<Self::CutoverStream> {
        let by = caller(&request);
        let peer = request.extensions().get::<UdsConnectInfo>();
        let peer = peer.and_then(|info| info.peer_cred);
        let pid = peer.and_then(|peer| peer.pid()).unwrap_or(0);
        let (pid, uid) = (pid.unsigned_abs(), peer.map_or(0, |peer| peer.uid()));
        let (ending, request) = (self.ending.clone(), request.into_inner());
        let limit = Duration::try_from_secs_f64(request.timeout_s)
            .map_err(|_| Status::invalid_argument("no such time limit"))?;
        let (sender, receiver) = mpsc::channel(16);
        let work = move || {
            let (to, inside) = (request.to.as_deref(), request.stay_inside);
            let asked = &Asked {
                answers: Some(sender.clone()),
                pid,
                user: &asker::user(pid, uid),
            };
            let outcome = cutover::told(match &ending {
                Ending::Mounted(daemon) => cutover::cut_over(daemon, asked, limit, to, inside),
                Ending::Served(served) => handover::end_served(served, asked, limit, to, inside),
            });
            if let proto::cutover_reply::Outcome::Done(_) = &outcome {
                ending.remember(How::CutOver, by);
            }
            // Nobody may be there any more to hear it.
            let _ = sender.blocking_send(Ok(proto::CutoverReply {
                outcome: Some(outcome),
            }));
        };
        // A thread of its own: the caller may wait for hours.
        let spawned = std::thread::Builder::new()
            .name("cutover".into())
            .spawn(work);
        spawned.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn abort(&self, request: Request<proto::AbortRequest>) -> Answer<proto::AbortReply> {
        let by = caller(&request);
        let ending = self.ending.clone();
        let outcome = apart(move || match &ending {
            Ending::Mounted(daemon) => cutover::abort(daemon),
            Ending::Served(served) => handover::give_up_served(served),
        });
        let outcome = match outcome.await? {
            Ok(done) => {
                self.ending.remember(How::GivenUp, by);
                abort_reply::Outcome::Done(done)
            }
            Err(refused) => abort_reply::Outcome::Refused(refused),
        };
        Ok(Response::new(proto::AbortReply {
            outcome: Some(outcome),
        }))
    }

    async fn stop(&self, request: Request<proto::StopRequest>) -> Answer<proto::StopReply> {
        let by = caller(&request);
        let (ending, anyway) = (self.ending.clone(), request.into_inner().anyway);
        let outcome = apart(move || match &ending {
            Ending::Mounted(daemon) => cutover::stop(daemon, anyway),
            Ending::Served(served) => handover::stop_serving(served, anyway),
        });
        let outcome = match outcome.await? {
            Ok(done) => {
                tracing::info!(by, "asked to end");
                stop_reply::Outcome::Done(done)
            }
            Err(refused) => stop_reply::Outcome::Refused(refused),
        };
        Ok(Response::new(proto::StopReply {
            outcome: Some(outcome),
        }))
    }
}

fn heal(
    pair: &Replicate,
    location: &Location,
    request: &proto::HealRequest,
    sender: &mpsc::Sender<Result<proto::HealProgress, Status>>,
) {
    let goal = match pair.heal(location, request.full) {
        Ok(goal) => goal,
        Err(error) => {
            let path = location.display();
            let _ = sender.blocking_send(Err(Status::not_found(format!("{path}: {error}"))));
            return;
        }
    };
    loop {
        let (reached, now) = (pair.reached(&goal), pair.status());
        let (reached, errors) = match reached {
            Reached::No => (proto::heal_progress::Reached::NotYet, now.errors),
            Reached::Yes => (proto::heal_progress::Reached::Done, now.errors),
            Reached::Failed(errors) => (proto::heal_progress::Reached::Failed, errors),
        };
        let mut found = match reached {
            proto::heal_progress::Reached::NotYet => Verified::default(),
            _ => pair.verified(&goal),
        };
        let differences = std::mem::take(&mut found.differences).into_iter();
        let differences = differences.map(|its| proto::Difference {
            path: its.path,
            sink: its.sink,
            what: its.what,
        });
        let progress = proto::HealProgress {
            compared: found.objects,
            compared_bytes: found.bytes,
            differed: found.different,
            differences: differences.collect(),
            reached: reached.into(),
            errors,
            pending: now.pending,
            reason: now.reason,
        };
        let ended = reached != proto::heal_progress::Reached::NotYet || !request.wait;
        if sender.blocking_send(Ok(progress)).is_err() || ended {
            return;
        }
        pair.wait_change(Duration::from_millis(500));
    }
}

/// A path from the root of the volume, as its names.
fn location(path: &[u8]) -> Result<Location, Status> {
    let names = path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(NameBuf::new)
        .collect::<Result<Vec<NameBuf>, _>>();
    let wrong =
        |error| Status::invalid_argument(format!("{}: {error}", String::from_utf8_lossy(path)));
    Ok(Location {
        path: names.map_err(wrong)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_names_and_does_not_lead_out() {
        assert_eq!(location(b"/").unwrap().path.len(), 0);
        assert_eq!(location(b"/a//b/./c/").unwrap().display(), "/a/b/c");
        assert!(location(b"/a/../b").is_err());
    }
}
